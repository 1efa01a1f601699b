"""Whose turn it is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from experiments import fair_queue, lifecycle
from experiments.models import Project, Run

from .lives import PAST, fresh
from .make import a_project, a_run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nudges")]


def submitted(project: Project, name: str, **values: object) -> Run:
    run = a_run(project=project, name=name, **values)
    assert lifecycle.submit(run, "ada")
    return run


def order() -> list[str]:
    """As shown; then taken one by one, which must be the same."""
    shown = list(fair_queue.in_order(Run.objects.filter(status="queued")).values_list("name", flat=True))
    taken = []
    while run := lifecycle.claim("w"):
        taken.append(run.name)
    assert taken == shown
    return taken


def test_a_project_with_one_run_does_not_wait_for_fifty_of_another():
    big, small = a_project("big"), a_project("small")
    for number in range(5):
        submitted(big, f"big {number}")
    assert lifecycle.claim("w").name == "big 0"
    submitted(small, "small")
    assert order() == ["small", "big 1", "big 2", "big 3", "big 4"]


def test_nobody_gathers_turns_by_staying_away():
    first, second = a_project("first"), a_project("second")
    for number in range(4):
        submitted(first, f"first {number}")
    for _ in range(3):
        lifecycle.claim("w")
    for number in range(3):
        submitted(second, f"second {number}")
    submitted(first, "first 4")
    assert order() == ["second 0", "first 3", "second 1", "second 2", "first 4"]


def test_nobody_jumps_the_queue_by_pausing_or_trying_again():
    first, second = a_project("first"), a_project("second")
    held = [submitted(first, f"first {number}") for number in range(2)]
    for run in held:
        assert lifecycle.request_pause(run, "ada")
    for number in range(3):
        submitted(second, f"second {number}")
    for _ in range(2):
        lifecycle.claim("w")
    failed = a_run(project=second, name="failed", status="failed", started=PAST, turn=0)
    for run in held:
        assert lifecycle.resume(run, "ada")
    assert lifecycle.retry(failed, "ada")
    assert order() == ["second 2", "first 0", "first 1", "failed"]


def test_a_higher_priority_goes_first_and_waiting_raises_it():
    project = a_project("one")
    submitted(project, "normal")
    submitted(project, "high", priority=1)
    low = submitted(project, "low", priority=-1)
    assert list(fair_queue.in_order(Run.objects.all()).values_list("name", flat=True)) == [
        "high",
        "normal",
        "low",
    ]
    Run.objects.filter(pk=low.pk).update(queued=timezone.now() - timedelta(days=3))
    assert order()[0] in ("low", "high")
    assert [run.name for run in Run.objects.order_by("pk") if run.status != "preparing"] == []


def test_a_priority_is_set_while_the_run_waits():
    run = submitted(a_project("one"), "run")
    assert lifecycle.set_priority(run, 1, "ada")
    assert not lifecycle.set_priority(run, 1, "ada")
    assert (fresh(run).priority, run.events.last().text) == (1, "Priority set to high.")
    with pytest.raises(ValueError, match="7"):
        lifecycle.set_priority(run, 7, "ada")
    lifecycle.claim("w")
    assert not lifecycle.set_priority(run, 0, "ada")
