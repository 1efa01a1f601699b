"""Where runs are put away: the archive (kept, out of the way) and the trash (gone for good after a while).

A run that a worker has, or that waits for one, is never put away out of sight: what waits is cancelled on its
way into the trash. Each move is one conditional UPDATE, so that of two people one moves and one is told.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce, Now
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from . import lifecycle, tags
from .lifecycle import Refused
from .models import Artifact, Project, Run, RunEvent
from .models.catalogue import Readiness

S, Shelf = Run.Status, Run.Shelf
RESTS = (*Run.ENDED, S.DRAFT)  # in nobody's hands, and waiting for nobody's
TRASHED = gettext_noop("Moved to the trash.")  # in the history, which is in English whoever reads it
AT_ONCE = 500  # runs that one request, or one sweep, deletes for good


def archive(run: Run, actor: object) -> bool:
    """False: it is not at hand, or has not ended."""
    return _move(run, Q(shelf=Shelf.NONE, status__in=RESTS), Shelf.ARCHIVE, gettext_noop("Archived."), actor)


def unarchive(run: Run, actor: object) -> bool:
    """False: it is not in the archive."""
    return _move(run, Q(shelf=Shelf.ARCHIVE), Shelf.NONE, gettext_noop("Taken out of the archive."), actor)


def trash(run: Run, actor: object) -> bool:
    """What waits is cancelled first. False: it is there already, or at work. Raises Refused where a teacher
    lives of the run: it could never be emptied out."""
    lifecycle.refuse_living_teacher(run)
    with transaction.atomic():
        lifecycle.cancel_waiting(run.pk, gettext_noop("It was moved to the trash."), actor)
        return _move(run, ~Q(shelf=Shelf.TRASH) & Q(status__in=RESTS), Shelf.TRASH, TRASHED, actor)


def restore(run: Run, actor: object) -> bool:
    """False: it is not in the trash."""
    return _move(run, Q(shelf=Shelf.TRASH), Shelf.NONE, gettext_noop("Restored from the trash."), actor)


def purge(run: Run, actor: object) -> None:
    """The run, its curves and its files, for good. Raises Refused outside the trash and where a teacher lives
    of the run, Run.DoesNotExist where somebody was first."""
    with transaction.atomic():
        current = Run.objects.select_for_update().get(pk=run.pk)
        if current.shelf != Shelf.TRASH:
            raise Refused(_("%(run)s is not in the trash: move it there first.") % {"run": run})
        lifecycle.delete(current, actor)
        tags.drop_unused()


def sweep() -> int:
    """Deletes what has lain in the trash for KDWEB_TRASH_DAYS days (0: never); how many that were."""
    if not settings.KDWEB_TRASH_DAYS:
        return 0
    lain = Now() - timedelta(days=settings.KDWEB_TRASH_DAYS)
    # Asked every few seconds: by project, because that is what the index of shelves begins with.
    old = Run.objects.filter(project__in=Project.objects.values("pk"), shelf=Shelf.TRASH, shelved__lt=lain)
    unneeded = old.filter(Q(makes=None) | Q(makes__status=Readiness.FAILED))
    return empty(unneeded, "sweep")[0]


def empty(runs: QuerySet[Run], actor: object) -> tuple[int, list[str]]:
    """Purges the oldest of the runs, AT_ONCE at most: how many are gone, and why others are not."""
    gone, reasons = 0, []
    for run in runs.filter(shelf=Shelf.TRASH).order_by("shelved", "pk")[:AT_ONCE]:
        try:
            purge(run, actor)
            gone += 1
        except Refused as refusal:
            reasons.append(str(refusal))
        except Run.DoesNotExist:
            continue
    return gone, reasons


def in_trash(runs: QuerySet[Run]) -> QuerySet[Any]:
    """Those of the runs that are in the trash, the last one first: `files` bytes, thrown away by `by`."""
    moves = RunEvent.objects.filter(run=OuterRef("pk"), text=TRASHED).order_by("-pk")
    files = Artifact.objects.filter(run=OuterRef("pk")).order_by().values("run")
    return (
        runs.filter(shelf=Shelf.TRASH)
        .annotate(
            by=Subquery(moves.values("actor")[:1]),
            files=Coalesce(Subquery(files.annotate(sum=Sum("bytes")).values("sum")), 0),
        )
        .order_by("-shelved", "-pk")
    )


def _move(run: Run, condition: Q, to: str, text: str, actor: object) -> bool:
    with transaction.atomic():
        if not Run.objects.filter(condition, pk=run.pk).update(shelf=to, shelved=Now() if to else None):
            return False
        lifecycle.remark(run.pk, text, actor)
    return True
