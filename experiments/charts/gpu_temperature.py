"""How warm each graphics processor is."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from . import _device
from ._parts import Figure, View

KEY = "gpu-temperature"
TITLE = gettext_lazy("GPU temperature")
SECTION = _device.SECTION
ORDER = 66
SCOPES = ("run", "compare")
SERIES = ("system/gpu*/temperature",)


def figure(view: View) -> Figure | str:
    return _device.figure(view, SERIES, _("°C"), ticks="~g", hover=".0f")
