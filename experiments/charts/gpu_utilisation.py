"""How much of the time each graphics processor works."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from . import _device
from ._parts import Figure, View

KEY = "gpu-utilisation"
TITLE = gettext_lazy("GPU use")
SECTION = _device.SECTION
ORDER = 64
SCOPES = ("run", "compare")
SERIES = ("system/gpu*/utilisation",)


def figure(view: View) -> Figure | str:
    return _device.figure(view, SERIES, _("% of the time"), ticks="~g", hover=".0f", from_zero=True)
