"""Weights of task loss and terms over time: as scheduled, or as balancing moves them."""

from collections.abc import Callable

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, colour, curve, layout
from .objective import SERIES as TERMS
from .objective import label

KEY = "weights"
TITLE = gettext_lazy("Weights of the terms")
SECTION = gettext_lazy("Schedules")
ORDER = 50
SCOPES = ("run",)
SERIES = ("weight/*",)


def figure(view: View) -> Figure | str:
    names = view.subjects[0].matching(*SERIES)
    if len(names) < 2:
        return ""  # the task loss alone
    traces = [
        curve(view.run, name, label=label(name.replace("weight/", "loss/", 1)), color=colour(i + 1))
        for i, name in enumerate(sorted(names, key=_place(view)))
    ]
    return {"data": traces, "layout": layout(_("weight"), ticks="~g", hover=".4~g", from_zero=True, log=True)}


def _place(view: View) -> Callable[[str], int]:
    """Each weight in the colour of its term in the objective's chart."""
    terms = [name for name in view.subjects[0].matching(*TERMS) if name != "loss/total"]
    places = {name.replace("loss/", "weight/", 1): place for place, name in enumerate(terms)}
    return lambda name: places.get(name, len(places))
