"""The objective and its terms."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, colour, curve, layout

KEY = "objective"
TITLE = gettext_lazy("Objective")
SECTION = gettext_lazy("Learning")
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
        return _("The terms appear with the first training step.")
    return {"data": traces, "layout": layout(_("loss"), ticks="~g", hover=".4~g", log=True)}


def label(name: str) -> str:
    part = name.removeprefix("loss/")
    known = {"total": _("total"), "ce": _("cross-entropy"), "bce": _("binary cross-entropy")}
    return known.get(part, part)
