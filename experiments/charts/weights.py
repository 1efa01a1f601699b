"""Weights of the terms, where a schedule changes them."""

from ._parts import Figure, View, colour, curve, layout

KEY = "weights"
TITLE = "Weights of the terms"
ORDER = 50
SCOPES = ("run",)
SERIES = ("weight/*",)


def figure(view: View) -> Figure | str:
    subject = view.subjects[0]
    names = subject.matching(*SERIES)
    if not any(name in subject.varying for name in names):
        return ""  # constant: the configuration says all there is to say
    traces = [
        curve(view.run, name, label=name.removeprefix("weight/"), color=colour(i + 2))
        for i, name in enumerate(names)
    ]
    return {"data": traces, "layout": layout("weight", ticks="~g", hover=".4~g", from_zero=True)}
