"""Runs at every point of their lives, for the tests of what may happen to them."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from experiments import sweep
from experiments.models import Attempt, Pulse, Run

from .make import a_run, a_running_run

RESULT = {
    "student": {"top1": 0.9, "parameters": 10, "bytes": 40, "flops": 20, "latency_p50_ms": 0.5},
    "teacher": None,
    "steps": 100,
    "device": "cpu",
    "seconds": 1.0,
}
PAST = timezone.now() - timedelta(minutes=5)


def swept() -> None:
    """As if the last sweep were long ago."""
    Pulse.objects.update(at=PAST)
    sweep.sweep("w") or sweep.sweep("w")


def queued(**values: object) -> Run:
    return a_run(**({"status": Run.Status.QUEUED, "queued": timezone.now()} | values))


def lost(**values: object) -> Run:
    run = a_running_run(**({"lease_expires": PAST, "silent_since": PAST} | values))
    Attempt.objects.create(run=run, number=run.fence, worker="gone")
    return run


def fresh(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def attempt_of(run: Run, number: int = 1) -> Run:
    Attempt.objects.create(run=run, number=number, worker="w")
    return run
