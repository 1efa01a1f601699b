"""What a person may want of a run. The page, the choice of many and the API ask here: one rule, one sentence.

Whoever asks twice (a double click, a second tab, a page from before) gets one effect and is told what is
so already; what cannot be done is refused with what to do instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from . import lifecycle, shelves, tags
from .lifecycle import Refused
from .models import Run

S, Asked, Shelf = Run.Status, Run.Asked, Run.Shelf
PRIORITIES = {level.name.lower(): level for level in Run.Priority}  # names: labels are translated


@dataclass(frozen=True)
class Said:
    """`done`: this very call changed something. If it did not, the run is as wanted already."""

    done: bool
    text: str


def _of(run: Run, words: str) -> str:
    """`words` with the run's name in the place of %(run)s."""
    return words % {"run": run}


def pause(run: Run, actor: object) -> Said:
    """Raises Refused for a run that has ended, stops, or was never submitted."""
    if lifecycle.request_pause(run, actor):
        run.refresh_from_db()
        paused = run.status == S.PAUSED
        return Said(True, _of(run, _("%(run)s is paused.") if paused else _("%(run)s will pause.")))
    run.refresh_from_db()
    _refuse_ended(run, _("there is nothing to pause"))
    _refuse_stopping(run)
    if run.status == S.DRAFT:
        raise Refused(_of(run, _("%(run)s is a draft: there is nothing to pause.")))
    paused = run.status == S.PAUSED
    return Said(
        False, _of(run, _("%(run)s is paused already.") if paused else _("%(run)s is pausing already."))
    )


def resume(run: Run, actor: object) -> Said:
    """Raises Refused for a run that has ended, stops, or was never submitted."""
    if lifecycle.resume(run, actor):
        return Said(True, _of(run, _("%(run)s goes on.")))
    run.refresh_from_db()
    succeeded = run.status == S.SUCCEEDED
    _refuse_ended(run, _("clone it to train it again") if succeeded else _("try it again instead"))
    _refuse_stopping(run)
    _refuse_draft(run)
    return Said(False, _of(run, _("%(run)s goes on already.")))


def stop(run: Run, actor: object) -> Said:
    """Raises Refused for a run that has succeeded or failed."""
    if lifecycle.request_stop(run, actor):
        run.refresh_from_db()
        return Said(True, _of(run, _("%(run)s is cancelled.") if run.ended else _("%(run)s will stop.")))
    run.refresh_from_db()
    if run.status != S.CANCELLED:
        _refuse_ended(run, _("there is nothing to stop"))
    ended = _("%(run)s is stopped already.") if run.ended else _("%(run)s was asked to stop before.")
    return Said(False, _of(run, ended))


def retry(run: Run, actor: object, from_start: bool = False) -> Said:
    """Raises Refused for a run that is paused, has succeeded, was put away, or was never submitted."""
    if lifecycle.retry(run, actor, from_start):
        start, last = (
            _("%(run)s is tried again from the start."),
            _("%(run)s is tried again from its last checkpoint."),
        )
        return Said(True, _of(run, start if from_start else last))
    run.refresh_from_db()
    if run.shelf == Shelf.TRASH:
        raise Refused(_of(run, _("%(run)s is in the trash: restore it first.")))
    if run.shelf == Shelf.ARCHIVE:
        raise Refused(_of(run, _("%(run)s is archived: take it out of the archive first.")))
    _refuse_ended(run, _("clone it to train it again"))
    _refuse_stopping(run)
    if run.status == S.PAUSED:
        raise Refused(_of(run, _("%(run)s is paused: resume it.")))
    _refuse_draft(run)
    return Said(False, _of(run, _("%(run)s waits or runs already.")))


def set_priority(run: Run, level: int, actor: object) -> Said:
    """Raises Refused for a run that no longer waits, ValueError where there is no such level."""
    names = {"run": run, "level": str(Run.Priority(level).label).lower()}
    if lifecycle.set_priority(run, level, actor):
        return Said(True, _("The priority of %(run)s is %(level)s now.") % names)
    run.refresh_from_db()
    _refuse_ended(run, _("its place in the queue matters no more"))
    if run.status in Run.ACTIVE:
        raise Refused(_of(run, _("%(run)s has begun: its place in the queue matters no more.")))
    return Said(False, _("The priority of %(run)s is %(level)s already.") % names)


# --- Out of sight, and back -------------------------------------------------------------------------------
def archive(run: Run, actor: object) -> Said:
    """Raises Refused for a run that has not ended, or is in the trash."""
    if shelves.archive(run, actor):
        return Said(True, _of(run, _("%(run)s is archived.")))
    run.refresh_from_db()
    if run.shelf == Shelf.TRASH:
        raise Refused(_of(run, _("%(run)s is in the trash: restore it first.")))
    if run.shelf == Shelf.NONE:
        raise Refused(_of(run, _("%(run)s has not ended: stop it first, then archive it.")))
    return Said(False, _of(run, _("%(run)s is archived already.")))


def unarchive(run: Run, actor: object) -> Said:
    """Raises Refused for a run in the trash."""
    if shelves.unarchive(run, actor):
        return Said(True, _of(run, _("%(run)s is out of the archive.")))
    run.refresh_from_db()
    if run.shelf == Shelf.TRASH:
        raise Refused(_of(run, _("%(run)s is in the trash: restore it first.")))
    return Said(False, _of(run, _("%(run)s is not in the archive.")))


def trash(run: Run, actor: object) -> Said:
    """What waits is cancelled. Raises Refused while a worker has the run or a teacher lives of it."""
    waited = run.status in (S.QUEUED, S.PAUSED)
    if shelves.trash(run, actor):
        cancelled = _("%(run)s is cancelled and in the trash.")
        return Said(True, _of(run, cancelled if waited else _("%(run)s is in the trash.")))
    run.refresh_from_db()
    if run.shelf == Shelf.TRASH:
        return Said(False, _of(run, _("%(run)s is in the trash already.")))
    words = _("%(run)s is %(status)s: stop it first, then move it to the trash.")
    raise Refused(words % {"run": run, "status": str(run.get_status_display()).lower()})


def restore(run: Run, actor: object) -> Said:
    if shelves.restore(run, actor):
        return Said(True, _of(run, _("%(run)s is restored.")))
    return Said(False, _of(run, _("%(run)s is not in the trash.")))


def purge(run: Run, actor: object) -> Said:
    """Raises Refused for a run that is not in the trash, and where a teacher lives of it."""
    try:
        shelves.purge(run, actor)
    except Run.DoesNotExist:
        return Said(False, _of(run, _("%(run)s is deleted already.")))
    return Said(True, _of(run, _("%(run)s is deleted.")))


# --- To find it again -------------------------------------------------------------------------------------
def tag(run: Run, name: str) -> Said:
    """Raises ValueError for what is no tag, Refused for one too many."""
    name = tags.clean(name)
    done = tags.add(run, name)
    words = _("%(run)s is tagged %(tag)s.") if done else _("%(run)s is tagged %(tag)s already.")
    return Said(done, words % {"run": run, "tag": name})


def untag(run: Run, name: str) -> Said:
    """Raises ValueError for what is no tag."""
    name = tags.clean(name)
    done = tags.remove(run, name)
    words = _("%(run)s is no longer tagged %(tag)s.") if done else _("%(run)s is not tagged %(tag)s.")
    return Said(done, words % {"run": run, "tag": name})


def star(run: Run, user: User) -> Said:
    done = tags.star(run, user)
    return Said(done, _of(run, _("%(run)s is starred.") if done else _("%(run)s is starred already.")))


def unstar(run: Run, user: User) -> Said:
    done = tags.unstar(run, user)
    return Said(done, _of(run, _("%(run)s is starred no more.") if done else _("%(run)s is not starred.")))


def _refuse_ended(run: Run, instead: str) -> None:
    words = {
        S.SUCCEEDED: _("%(run)s has succeeded: %(instead)s."),
        S.FAILED: _("%(run)s has failed: %(instead)s."),
        S.CANCELLED: _("%(run)s was cancelled: %(instead)s."),
    }
    if run.status in words:
        raise Refused(words[S(run.status)] % {"run": run, "instead": instead})


def _refuse_stopping(run: Run) -> None:
    if run.asked == Asked.STOP:
        raise Refused(_of(run, _("%(run)s is stopping; it can be tried again once it has.")))


def _refuse_draft(run: Run) -> None:
    if run.status == S.DRAFT:
        raise Refused(_of(run, _("%(run)s is a draft: submit it first.")))
