"""How busy the machine's processors are."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from . import _device
from ._parts import Figure, View

KEY = "system-cpu"
TITLE = gettext_lazy("Processor use")
SECTION = _device.SECTION
ORDER = 62
SCOPES = ("run", "compare")
SERIES = ("system/cpu",)


def figure(view: View) -> Figure | str:
    return _device.figure(view, SERIES, _("% of all cores"), ticks="~g", hover=".1f", from_zero=True)
