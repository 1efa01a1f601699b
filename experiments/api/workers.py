"""The workers: what they are, what they do, whether they take runs."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.errors import HttpError

from experiments import rotation
from experiments.models import Run, Worker

from .schemas import Message, Problem, WorkerRow

router = Router(tags=["workers"])


class Drained(Schema):
    drain: bool


@router.get("/workers", response=list[WorkerRow])
def list_workers(request: HttpRequest) -> list[dict[str, Any]]:
    """All workers that have ever reported. `run` is null for a run that is not yours to see."""
    visible = set(
        Run.objects.for_user(request.user).filter(status__in=Run.ACTIVE).values_list("pk", flat=True)
    )
    return [_row(worker, visible) for worker in Worker.objects.all()]


@router.post(
    "/workers/{name}/drain", response={200: WorkerRow, 403: Message, 404: Message, 422: list[Problem]}
)
def drain_worker(request: HttpRequest, name: str, wanted: Drained) -> dict[str, Any]:
    """A drained worker ends the run it has and takes no other. Asking twice is asking once."""
    if not rotation.may_drain(request.user):
        raise HttpError(403, str(rotation.NEEDED))
    worker = get_object_or_404(Worker, pk=name)
    rotation.drain(worker, wanted.drain)
    visible = set(
        Run.objects.for_user(request.user).filter(pk=worker.run_id or 0).values_list("pk", flat=True)
    )
    return _row(worker, visible)


def _row(worker: Worker, visible: set[int]) -> dict[str, Any]:
    kept = ("name", "host", "device", "device_kind", "versions", "started", "heartbeat", "usage")
    return {name: getattr(worker, name) for name in kept} | {
        "queues": worker.queue.split(","),
        "alive": worker.alive,  # type: ignore[attr-defined]  # annotated by the manager
        "drain": worker.drain,
        "trouble": worker.trouble,
        "busy": worker.run_id is not None,
        "run": worker.run_id if worker.run_id in visible else None,
    }
