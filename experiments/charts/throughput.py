"""How fast training goes."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, curve, layout

KEY = "throughput"
TITLE = gettext_lazy("Throughput")
SECTION = gettext_lazy("Speed and device")
ORDER = 60
SCOPES = ("run", "compare")
SERIES = ("throughput",)


def figure(view: View) -> Figure | str:
    if view.scope == "compare":
        traces = view.overlaid("throughput")
    else:
        own = view.subjects[0].matching(*SERIES)
        traces = [curve(view.run, name, label=_("samples/s"), color="series-5") for name in own]
    if not traces:
        return _("Throughput appears with the first training steps.")
    return {"data": traces, "layout": layout(_("samples/s"), ticks="~s", hover=".4~s", from_zero=True)}
