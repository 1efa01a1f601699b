"""What in a project waits for somebody to do something about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from .models import Dataset, Project, Run, Teacher, Worker
from .models.catalogue import Readiness

RECENT = timedelta(days=7)  # a failure older than this is history; the archive ends it earlier
SHOWN = 3  # of a kind
LINE = ("name", "status", "reason", "silent_since", "finished", "hold")


@dataclass(frozen=True)
class Item:
    """A line of the list: the state it is in, its name and page, what is wrong, since when."""

    state: str
    title: str
    url: str
    text: str
    since: datetime | None = None


def items(project: Project, runs: QuerySet[Run]) -> list[Item]:
    """The most pressing first. `runs`: those at hand that the person may see."""
    light = runs.only(*LINE)
    return [*_workers(runs), *_lost(light), *_full(light), *_failed(light), *_unprepared(project)]


def failures(runs: QuerySet[Run]) -> QuerySet[Run]:
    recent = Q(finished__gte=timezone.now() - RECENT) | Q(finished=None)
    return runs.filter(recent, status=Run.Status.FAILED)


def quiet() -> Q:
    return Q(status__in=Run.ACTIVE, silent_since__isnull=False)


def _workers(runs: QuerySet[Run]) -> Iterator[Item]:
    """Nobody takes what waits; a worker is in trouble."""
    page = reverse("worker_list")
    alive = list(Worker.objects.alive())
    if runs.filter(status=Run.Status.QUEUED).exists():
        if not alive:
            text = _("Start one with `manage.py up`, or the worker container on a GPU machine.")
            yield Item("lost", _("No worker is alive"), page, text)
        elif all(worker.drain or worker.trouble for worker in alive):
            text = _("All are drained or in trouble; what is queued does not start.")
            yield Item("paused", _("No worker takes runs"), page, text)
    for worker in alive:
        if worker.trouble:
            yield Item("failed", worker.name, page, worker.trouble)


def _lost(runs: QuerySet[Run]) -> Iterator[Item]:
    for run in runs.filter(quiet())[:SHOWN]:
        text = _("Its worker is silent; another one takes it over.")
        yield Item("lost", run.name, reverse("run_detail", args=[run.pk]), text, run.silent_since)


def _full(runs: QuerySet[Run]) -> Iterator[Item]:
    for run in runs.filter(status=Run.Status.PAUSED, hold=Run.Hold.DISK)[:SHOWN]:
        text = _("Paused, the disk is full; goes on by itself when there is room.")
        yield Item("paused", run.name, reverse("run_detail", args=[run.pk]), text)


def _failed(runs: QuerySet[Run]) -> Iterator[Item]:
    for run in failures(runs).order_by("-finished", "-pk")[:SHOWN]:
        yield Item("failed", run.name, reverse("run_detail", args=[run.pk]), run.reason, run.finished)


def _unprepared(project: Project) -> Iterator[Item]:
    """Datasets and teachers that could not be made ready."""
    for model, page in ((Dataset, "dataset_detail"), (Teacher, "teacher_detail")):
        for row in model.objects.filter(project=project, status=Readiness.FAILED)[:SHOWN]:
            yield Item("failed", row.name, reverse(page, args=[row.pk]), row.error)
