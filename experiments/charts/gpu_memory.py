"""Memory of each graphics processor in use."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from . import _device
from ._parts import Figure, View

KEY = "gpu-memory"
TITLE = gettext_lazy("GPU memory")
SECTION = _device.SECTION
ORDER = 65
SCOPES = ("run", "compare")
SERIES = ("system/gpu*/memory",)


def figure(view: View) -> Figure | str:
    return _device.figure(view, SERIES, _("bytes"), ticks="~s", hover=".3~s", from_zero=True)
