"""The learning rate as it was used."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, curve, layout

KEY = "learning-rate"
TITLE = gettext_lazy("Learning rate")
SECTION = gettext_lazy("Schedules")
ORDER = 40
SCOPES = ("run", "compare")
SERIES = ("lr",)


def figure(view: View) -> Figure | str:
    if view.scope == "compare":
        traces = view.overlaid("lr")
    else:
        own = view.subjects[0].matching(*SERIES)
        traces = [curve(view.run, name, label=_("learning rate"), color="series-4") for name in own]
    if not traces:
        return _("The learning rate appears with the first training step.")
    axes = layout(_("learning rate"), hover=".4~g", from_zero=True, log=True)
    axes["meta"]["exact"] = True  # a schedule has no noise to smooth
    return {"data": traces, "layout": axes}
