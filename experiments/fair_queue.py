"""Whose turn it is: start-time fair queuing between the projects, decided when a worker asks for work.

Each run gets a turn when it is submitted: one after the last turn of its project, but never before the turn
of the run that began last. So a project with one run waits for one run of each other project and not for
the fifty that one of them has queued; nobody hoards turns by staying away; and the order is a plain ORDER
BY, the same for the page that shows it and for the worker that takes from it.

Reference: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996 (each run counts as one unit).
"""

from __future__ import annotations

from datetime import timedelta

from django.db.models import Case, Exists, F, Max, OuterRef, Q, QuerySet, When
from django.db.models.functions import Now

from .models import Run, RunTeacher
from .models.catalogue import Readiness

DAY = timedelta(days=1)


def turn_for(run: Run) -> int:
    """The turn of a run that is submitted now, among those of its priority."""
    same = Run.objects.filter(priority=run.priority).exclude(pk=run.pk)
    now = same.filter(started__isnull=False).aggregate(turn=Max("turn"))["turn"] or 0
    own = same.filter(project=run.project_id, queued__isnull=False).aggregate(turn=Max("turn"))["turn"]
    return now if own is None else max(now, own + 1)


def in_order(runs: QuerySet[Run]) -> QuerySet[Run]:
    """As workers take them: by priority, where every full day of waiting counts as one more, then by turn."""
    waited = Case(When(queued__lt=Now() - 2 * DAY, then=2), When(queued__lt=Now() - DAY, then=1), default=0)
    rank = F("priority") + waited
    return runs.order_by(rank.desc(), "turn", F("queued").asc(nulls_last=True), "pk")


def can_start() -> Q:
    """Its dataset and its teachers are there, and nobody wants it to stop."""
    ready = Q(dataset__status=Readiness.READY) & (Q(teacher=None) | Q(teacher__status=Readiness.READY))
    return ready & ~Q(Exists(beside().exclude(teacher__status=Readiness.READY))) & Q(asked=Run.Asked.NOTHING)


def beside() -> QuerySet[RunTeacher]:
    """The further teachers of the run that a query is about."""
    return RunTeacher.objects.filter(run=OuterRef("pk"))
