"""Main memory: of the training's processes, and of the whole machine."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from . import _device
from ._parts import Figure, View

KEY = "system-memory"
TITLE = gettext_lazy("Memory")
SECTION = _device.SECTION
ORDER = 63
SCOPES = ("run", "compare")
SERIES = (
    "system/engine_memory",
    "system/memory",
)


def figure(view: View) -> Figure | str:
    return _device.figure(view, SERIES, _("bytes"), ticks="~s", hover=".3~s", from_zero=True)
