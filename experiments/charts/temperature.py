"""What methods turn while they train, such as a learned temperature."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, colour, curve, layout

KEY = "temperature"
TITLE = gettext_lazy("Temperatures and other dials")
SECTION = gettext_lazy("Schedules")
ORDER = 52
SCOPES = ("run",)
SERIES = ("dial/*",)


def figure(view: View) -> Figure | str:
    traces = [
        curve(view.run, name, label=label(name), color=colour(i))
        for i, name in enumerate(view.subjects[0].matching(*SERIES))
    ]
    if not traces:
        return ""  # most methods turn nothing
    kinds = {name.rpartition(" ")[2] for name in (trace["name"] for trace in traces)}
    title = _("temperature") if kinds == {"temperature"} else _("value")
    return {"data": traces, "layout": layout(title, ticks="~g", hover=".4~g", log=True)}


def label(name: str) -> str:
    """dial/ctkd/temperature → ctkd temperature"""
    return name.removeprefix("dial/").replace("/", " ").replace("_", " ")
