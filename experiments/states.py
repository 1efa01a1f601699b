"""The names of states, and which of a run's states each looks like."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy

STATUSES: dict[str, Promise] = {
    "draft": gettext_lazy("Draft"),
    "queued": gettext_lazy("Queued"),
    "preparing": gettext_lazy("Preparing"),
    "running": gettext_lazy("Running"),
    "paused": gettext_lazy("Paused"),
    "succeeded": gettext_lazy("Succeeded"),
    "failed": gettext_lazy("Failed"),
    "cancelled": gettext_lazy("Cancelled"),
    "lost": gettext_lazy("Lost"),
    "pausing": gettext_lazy("Pausing"),
    "stopping": gettext_lazy("Stopping"),
    "at work": gettext_lazy("At work"),
    "handed back": gettext_lazy("Handed back"),
    "crashed": gettext_lazy("Crashed"),
    "hung": gettext_lazy("Hung"),
    "ready": gettext_lazy("Ready"),
    "online": gettext_lazy("Online"),
    "offline": gettext_lazy("Silent"),
    "drained": gettext_lazy("Drained"),
    "draining": gettext_lazy("Draining"),
    "in trouble": gettext_lazy("Out of rotation"),
    "fine": gettext_lazy("Fine"),
    "warning": gettext_lazy("Look at it"),
    "broken": gettext_lazy("Broken"),
    "waiting": gettext_lazy("Waiting"),
    "receiving": gettext_lazy("Receiving"),
    "checking": gettext_lazy("Checking"),
    "done": gettext_lazy("Done"),
    "refused": gettext_lazy("Refused"),
}
# States that are not a run's own share shape and colour with the run state they resemble.
STATUS_LIKE = {
    "ready": "succeeded",
    "done": "succeeded",
    "online": "succeeded",
    "offline": "lost",
    "drained": "paused",
    "draining": "paused",
    "in trouble": "failed",
    "fine": "succeeded",
    "warning": "lost",
    "broken": "failed",
    "pausing": "paused",
    "stopping": "cancelled",
    "at work": "running",
    "handed back": "queued",
    "crashed": "failed",
    "hung": "failed",
    "waiting": "queued",
    "receiving": "preparing",
    "checking": "preparing",
    "refused": "failed",
}
