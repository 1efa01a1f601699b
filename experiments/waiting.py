"""What waits, in the order in which workers will take it, and why it waits."""

from __future__ import annotations

from django.utils.translation import gettext as _

from . import lifecycle
from .models import Run, Worker


def order() -> list[int]:
    """The runs that a worker could take now, of all projects, the next one first."""
    return list(lifecycle.startable().values_list("pk", flat=True))


def place(run: Run) -> int | None:
    """1 for the run that a worker takes next; None while it could not be taken."""
    if run.status != Run.Status.QUEUED:
        return None
    places = order()
    return places.index(run.pk) + 1 if run.pk in places else None


def reason(run: Run) -> str:
    """Why a queued run does not start yet; nothing for any other."""
    if run.status != Run.Status.QUEUED:
        return ""
    if run.dataset.status == "preparing":
        return _("Waits for the dataset %(name)s.") % {"name": run.dataset}
    for teacher in run.teachers:
        if teacher.status == "preparing":
            text = _("Waits for the teacher %(name)s, which is still in the making.")
            return text % {"name": teacher}
    if not Worker.objects.alive().exists():
        return _(
            "No worker is alive. Start one with `manage.py up`, or the worker container on a GPU machine."
        )
    if not Worker.objects.taking().exists():
        return _("No worker takes runs: all are drained or in trouble. The Workers page says which and why.")
    return _("Waits for a free worker.")
