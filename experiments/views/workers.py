"""The workers: what they are and do, what waits for them, who takes them out of rotation."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from experiments import fair_queue, rotation, waiting
from experiments.models import Run, Worker

SHOWN = 50  # rows of the queue
RELATED = ("project", "dataset", "teacher", "architecture", "owner")


@require_GET
def worker_list(request: HttpRequest) -> HttpResponse:
    """The whole page; for htmx the part that changes."""
    workers = list(Worker.objects.select_related("run", "run__project"))
    context = {
        "workers": [_card(worker) for worker in workers],
        "differing": rotation.differing(workers),
        "may_drain": rotation.may_drain(request.user),
        "needed": rotation.NEEDED,
        "now": timezone.now(),
        **_work(request),
        **_queue(request),
    }
    template = "workers/_body.html" if request.htmx else "workers/list.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _card(worker: Worker) -> dict[str, Any]:
    silent = timezone.now() - worker.heartbeat
    return {
        "worker": worker,
        "state": rotation.state(worker),
        "removable": not worker.alive and silent > rotation.FORGOTTEN,  # type: ignore[attr-defined]
        "queues": worker.queue.split(","),
        "versions": sorted(worker.versions.items()),
    }


def _work(request: HttpRequest) -> dict[str, Any]:
    """What is in the hands of workers; runs of other projects are counted."""
    active = Run.objects.filter(status__in=Run.ACTIVE)
    mine = Run.objects.for_user(request.user).filter(status__in=Run.ACTIVE).select_related(*RELATED)
    running = list(mine.order_by("started", "pk"))
    return {
        "running": running,
        "visible": {run.pk for run in running},
        "others_running": active.count() - len(running),
    }


def _queue(request: HttpRequest) -> dict[str, Any]:
    """What waits, in the order workers take it; then what waits for something else."""
    places = {pk: n for n, pk in enumerate(waiting.order(), 1)}
    mine = Run.objects.for_user(request.user).filter(status=Run.Status.QUEUED)
    ordered = fair_queue.in_order(mine.select_related(*RELATED).prefetch_related("beside__teacher"))
    runs = sorted(ordered[: 10 * SHOWN], key=lambda run: places.get(run.pk, len(places) + 1))
    queued = Run.objects.filter(status=Run.Status.QUEUED).count()
    shown = runs[:SHOWN]
    return {
        "queue": [
            {"run": run, "place": places.get(run.pk), "why": "" if run.pk in places else waiting.reason(run)}
            for run in shown
        ],
        "queued": queued,
        "others_queued": queued - mine.count(),
        "unshown": mine.count() - len(shown),
    }


def _require_drainer(request: HttpRequest) -> None:
    if not rotation.may_drain(request.user):
        raise PermissionDenied(str(rotation.NEEDED))


@require_POST
def worker_drain(request: HttpRequest, name: str) -> HttpResponse:
    """Takes no further run (`drain=1`), or takes them again (`drain=0`)."""
    _require_drainer(request)
    worker = get_object_or_404(Worker, pk=name)
    wanted = request.POST.get("drain") == "1"
    changed = rotation.drain(worker, wanted)
    if not changed:
        text = _("%(name)s is drained already.") if wanted else _("%(name)s takes runs already.")
        messages.info(request, text % {"name": name})
    elif wanted:
        text = _("%(name)s takes no further run; what it has in hand it ends.")
        messages.success(request, text % {"name": name})
    else:
        messages.success(request, _("%(name)s takes runs again.") % {"name": name})
    return redirect("worker_list")


@require_POST
def worker_remove(request: HttpRequest, name: str) -> HttpResponse:
    """Forgets a worker that has been silent for long. Its runs and their attempts stay."""
    _require_drainer(request)
    if rotation.remove(name):
        text = _("%(name)s is forgotten. If it starts again, it is back.")
        messages.success(request, text % {"name": name})
    else:
        text = _("%(name)s stays: it has been heard of within the hour, or is gone already.")
        messages.info(request, text % {"name": name})
    return redirect("worker_list")
