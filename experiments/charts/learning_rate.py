"""The learning rate as it was used."""

from ._parts import Figure, View, curve, layout

KEY = "learning-rate"
TITLE = "Learning rate"
ORDER = 40
SCOPES = ("run", "compare")
SERIES = ("lr",)


def figure(view: View) -> Figure | str:
    if view.scope == "compare":
        traces = view.overlaid("lr")
    else:
        own = view.subjects[0].matching(*SERIES)
        traces = [curve(view.run, name, label="learning rate", color="series-4") for name in own]
    if not traces:
        return "The learning rate appears with the first training step."
    return {
        "data": traces,
        "layout": layout("learning rate", hover=".4~g", from_zero=True, log=True),
    }
