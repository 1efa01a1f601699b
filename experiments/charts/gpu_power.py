"""What each graphics processor draws."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from . import _device
from ._parts import Figure, View

KEY = "gpu-power"
TITLE = gettext_lazy("GPU power")
SECTION = _device.SECTION
ORDER = 67
SCOPES = ("run", "compare")
SERIES = ("system/gpu*/power",)


def figure(view: View) -> Figure | str:
    return _device.figure(view, SERIES, _("watts"), ticks="~g", hover=".0f", from_zero=True)
