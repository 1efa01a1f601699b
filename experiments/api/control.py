"""What scripts do to runs: the rules and sentences of the page. Asking twice is asking once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from ninja import Router, Schema, Status
from pydantic import Field

from experiments import controls, notes, tags
from experiments.controls import Said
from experiments.models import Attempt, Run, RunEvent, Tag

from . import access
from .schemas import AttemptRow, Event, Message, Notes, NotesConflict, Problem, State

router = Router(tags=["runs"])
ANSWERS: Any = {200: State, 403: Message, 404: Message, 409: Message, 422: list[Problem]}


class Again(Schema):
    from_start: bool = False


class Wanted(Schema):
    priority: Literal[-1, 0, 1]


class Written(Schema):
    text: str = Field(max_length=notes.MAX_LENGTH)
    version: int = Field(ge=0)


class Placed(Schema):
    shelf: Literal["", "archive", "trash"]


class TagChange(Schema):
    add: list[str] = Field([], max_length=tags.MOST)
    remove: list[str] = Field([], max_length=tags.MOST)


class TagRow(Schema):
    name: str
    count: int


def _changed(request: HttpRequest, run_id: int, act: Callable[[Run], Said]) -> Run:
    """The run as it is afterwards. What cannot be done is 409 with the reason."""
    run = access.run_of(request, run_id)
    access.require_member(request, run)
    act(run)
    return access.run_of(request, run_id)


@router.post("/runs/{int:run_id}/pause", response=ANSWERS)
def pause_run(request: HttpRequest, run_id: int) -> Run:
    """Take what waits out of the queue; what runs writes a checkpoint and lets go of its worker."""
    return _changed(request, run_id, lambda run: controls.pause(run, request.user))


@router.post("/runs/{int:run_id}/resume", response=ANSWERS)
def resume_run(request: HttpRequest, run_id: int) -> Run:
    """Back into the queue, from the last checkpoint; withdraws a pause that has not come yet."""
    return _changed(request, run_id, lambda run: controls.resume(run, request.user))


@router.post("/runs/{int:run_id}/stop", response=ANSWERS)
def stop_run(request: HttpRequest, run_id: int) -> Run:
    """Cancel what waits, stop what runs at its next step."""
    return _changed(request, run_id, lambda run: controls.stop(run, request.user))


@router.post("/runs/{int:run_id}/retry", response=ANSWERS)
def retry_run(request: HttpRequest, run_id: int, again: Again | None = None) -> Run:
    """Failed or cancelled: into the queue again, from the last checkpoint, or on request from the start."""
    from_start = again is not None and again.from_start
    return _changed(request, run_id, lambda run: controls.retry(run, request.user, from_start))


@router.post("/runs/{int:run_id}/priority", response=ANSWERS)
def set_run_priority(request: HttpRequest, run_id: int, wanted: Wanted) -> Run:
    """Of a run that waits: -1 low, 0 normal, 1 high."""
    return _changed(request, run_id, lambda run: controls.set_priority(run, wanted.priority, request.user))


@router.put("/runs/{int:run_id}/shelf", response=ANSWERS)
def put_away(request: HttpRequest, run_id: int, placed: Placed) -> Run:
    """Into the archive or the trash, or (an empty word) back to the lists."""
    acts = {"archive": controls.archive, "trash": controls.trash}
    back = {"archive": controls.unarchive, "trash": controls.restore}

    def act(run: Run) -> Said:
        found = acts.get(placed.shelf) or back.get(run.shelf)
        return found(run, request.user) if found else Said(False, "")

    return _changed(request, run_id, act)


@router.post(
    "/runs/{int:run_id}/tags",
    response={200: list[str], 400: Message, 403: Message, 404: Message, 409: Message, 422: list[Problem]},
)
def change_tags(request: HttpRequest, run_id: int, change: TagChange) -> list[str]:
    """Puts tags on and takes tags off, all of it or nothing; the tags the run bears then."""
    run = access.run_of(request, run_id)
    access.require_member(request, run)
    with transaction.atomic():
        for name in change.remove:
            controls.untag(run, name)
        for name in change.add:
            controls.tag(run, name)
    return [tag.name for tag in run.tags.all()]


@router.get("/tags", response={200: list[TagRow], 404: Message})
def list_tags(request: HttpRequest, project: int | None = None) -> QuerySet[Tag]:
    """The tags of a project and on how many runs each is."""
    where = access.project_of(request, project)
    return Tag.objects.filter(project=where).annotate(count=Count("runs")).order_by("name")


@router.put("/runs/{int:run_id}/star", response={204: None, 404: Message})
def star_run(request: HttpRequest, run_id: int) -> Status[None]:
    """One's own mark; whoever sees the run may have one."""
    controls.star(access.run_of(request, run_id), request.user)  # type: ignore[arg-type]
    return Status(204, None)


@router.delete("/runs/{int:run_id}/star", response={204: None, 404: Message})
def unstar_run(request: HttpRequest, run_id: int) -> Status[None]:
    controls.unstar(access.run_of(request, run_id), request.user)  # type: ignore[arg-type]
    return Status(204, None)


@router.get("/runs/{int:run_id}/events", response={200: list[Event], 404: Message})
def read_events(request: HttpRequest, run_id: int) -> list[RunEvent]:
    """All that happened to the run, oldest first; never changed afterwards."""
    return list(access.run_of(request, run_id).events.all())


@router.get("/runs/{int:run_id}/attempts", response={200: list[AttemptRow], 404: Message})
def read_attempts(request: HttpRequest, run_id: int) -> list[Attempt]:
    """The tries of workers at the run, oldest first."""
    return list(access.run_of(request, run_id).attempts.all())


@router.get("/runs/{int:run_id}/notes", response={200: Notes, 404: Message})
def read_notes(request: HttpRequest, run_id: int) -> dict[str, Any]:
    return _notes(access.run_of(request, run_id))


@router.put(
    "/runs/{int:run_id}/notes",
    response={200: Notes, 403: Message, 404: Message, 409: NotesConflict, 422: list[Problem]},
)
def write_notes(request: HttpRequest, run_id: int, written: Written) -> Status[dict[str, Any]]:
    """`version` is that of the notes one has read; 409 with the current ones if somebody saved since."""
    run = access.run_of(request, run_id)
    access.require_member(request, run)
    if notes.save(run, written.text, written.version, request.user):  # type: ignore[arg-type]
        return Status(200, _notes(run))
    detail = f"Somebody else saved version {run.notes_version} of these notes meanwhile."
    return Status(409, {"detail": detail} | _notes(run))


def _notes(run: Run) -> dict[str, Any]:
    by = run.notes_by.get_username() if run.notes_by else None
    return {"text": run.notes, "version": run.notes_version, "by": by, "saved": run.notes_saved}
