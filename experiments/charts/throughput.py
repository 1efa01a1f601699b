"""How fast training goes."""

from ._parts import Figure, View, curve, layout

KEY = "throughput"
TITLE = "Throughput"
ORDER = 60
SCOPES = ("run", "compare")
SERIES = ("throughput",)


def figure(view: View) -> Figure | str:
    if view.scope == "compare":
        traces = view.overlaid("throughput")
    else:
        own = view.subjects[0].matching(*SERIES)
        traces = [curve(view.run, name, label="samples/s", color="series-5") for name in own]
    if not traces:
        return "Throughput appears with the first training steps."
    return {"data": traces, "layout": layout("samples/s", ticks="~s", hover=".4~s", from_zero=True)}
