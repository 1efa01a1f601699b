"""Runs: list, read, start, delete, console."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router, Status
from pydantic import Field

from experiments import controls, planning, run_filter
from experiments.models import Run

from . import access
from .schemas import Message, Problem, RunDetail, RunPage, RunRow, State

router = Router(tags=["runs"])


@router.get("/runs", response={200: RunPage, 400: Message})
def list_runs(
    request: HttpRequest,
    q: str = "",
    sort: str = "-created",
    project: int | None = None,
    limit: Annotated[int, Field(ge=1, le=500)] = 50,
    offset: Annotated[int, Field(ge=0)] = 0,
) -> dict[str, Any]:
    """The runs of a project, filtered by the query line of the runs page."""
    where = access.project_of(request, project)
    related = ("dataset", "architecture", "student", "teacher", "control", "owner")
    visible = Run.objects.for_user(request.user).filter(project=where).select_related(*related)
    found = run_filter.filtered(visible, q, sort, request.user)
    return {"count": found.count(), "limit": limit, "offset": offset, "items": found[offset : offset + limit]}


@router.post("/runs", response={201: list[RunRow], 422: list[Problem]})
def start_runs(request: HttpRequest, plan: planning.Plan) -> Status[list[Run]]:
    """Check a plan and start it: one run a seed, and its control where the plan asks for one."""
    return Status(201, planning.create(plan, request.user))


@router.get("/runs/{int:run_id}", response={200: RunDetail, 404: Message})
def read_run(request: HttpRequest, run_id: int) -> Run:
    return access.run_of(request, run_id)


@router.delete("/runs/{int:run_id}", response={204: None, 403: Message, 404: Message, 409: Message})
def delete_run(request: HttpRequest, run_id: int, for_good: bool = False) -> Status[None]:
    """Into the trash; with `for_good` out of it, with its curves and files. 409 while a worker has the run or
    a teacher lives of it."""
    run = access.run_of(request, run_id)
    access.require_member(request, run)
    (controls.purge if for_good else controls.trash)(run, request.user)
    return Status(204, None)


@router.get("/runs/{int:run_id}/state", response={200: State, 404: Message})
def read_state(request: HttpRequest, run_id: int) -> Run:
    return access.run_of(request, run_id)
