"""Cross-entropy on the validation split."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, curve, layout

KEY = "validation-loss"
TITLE = gettext_lazy("Validation loss")
SECTION = gettext_lazy("Learning")
ORDER = 14
SCOPES = ("run", "compare")
SERIES = ("val/loss",)


def figure(view: View) -> Figure | str:
    if view.scope == "compare":
        traces = view.overlaid("val/loss")
    else:
        own = view.subjects[0].matching(*SERIES)
        traces = [
            curve(view.run, name, label=_("validation"), color="series-1", width=2.0, front=True)
            for name in own
        ]
        traces += view.of_control("val/loss") if own else []
    if not traces:
        return _("The validation loss appears after the first epoch.")
    return {"data": traces, "layout": layout(_("cross-entropy"), ticks="~g", hover=".4~g", log=True)}
