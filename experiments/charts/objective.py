"""The objective and its terms."""

from ._parts import Figure, View, colour, curve, layout

KEY = "objective"
TITLE = "Objective"
ORDER = 10
SCOPES = ("run", "compare")
SERIES = ("loss/total", "loss/ce", "loss/*")


def figure(view: View) -> Figure | str:
    if view.scope == "compare":
        traces = view.overlaid("loss/total")
    else:
        names = view.subjects[0].matching(*SERIES)
        traces = [
            curve(
                view.run,
                name,
                label=label(name),
                color=colour(i),
                width=2.0 if name == "loss/total" else 1.4,
                front=name == "loss/total",
            )
            for i, name in enumerate(names)
        ]
    if not traces:
        return "The terms appear with the first training step."
    axes = layout("loss", ticks="~g", hover=".4~g", log=True)
    if view.scope == "run":
        axes["meta"]["stages"] = view.run.stages  # the page draws where one ends: it knows the x axis
    return {"data": traces, "layout": axes}


def label(name: str) -> str:
    part = name.removeprefix("loss/")
    return {"total": "total", "ce": "cross-entropy", "bce": "binary cross-entropy"}.get(part, part)
