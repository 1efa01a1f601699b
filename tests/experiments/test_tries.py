"""What is tried again, and how often."""

from __future__ import annotations

import pytest
from django.utils import timezone

from experiments import lifecycle
from experiments.models import Artifact, Run, Teacher
from experiments.models.catalogue import Readiness

from .lives import PAST, attempt_of, fresh, lost
from .make import a_run, a_running_run, a_teacher

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nudges")]


def test_three_silent_attempts_at_one_place_are_enough():
    run = lost()
    for number in (2, 3):
        assert lifecycle.claim(f"w{number}").fence == number
        Run.objects.filter(pk=run.pk).update(silent_since=PAST, step=70)
    assert lifecycle.claim("w4") is None
    assert fresh(run).status == "failed"
    assert "3 attempts in a row" in fresh(run).reason
    assert "step 70" in fresh(run).reason
    assert [attempt.outcome for attempt in run.attempts.all()] == ["lost"] * 3


def test_an_attempt_that_reached_a_checkpoint_does_not_count_as_stuck():
    run = lost()
    for number in (2, 3, 4, 5):
        Artifact.objects.create(
            run=run, kind="resume", path=f"{number}", sha256="", bytes=1, step=number, fence=number - 1
        )
        assert lifecycle.claim("w").fence == number
        Run.objects.filter(pk=run.pk).update(silent_since=PAST)


def test_an_engine_that_died_without_a_word_is_tried_again():
    run = attempt_of(a_running_run(step=40))
    assert lifecycle.crashed(run.pk, 1, "It was killed (signal 9).")
    again = fresh(run)
    assert (again.status, again.lease_owner) == ("queued", "")
    assert (run.attempts.get().outcome, run.attempts.get().step) == ("crashed", 40)
    assert "signal 9" in run.events.last().text


def test_two_ends_at_the_very_same_step_are_enough():
    run = attempt_of(a_running_run(step=40))
    lifecycle.crashed(run.pk, 1, "Signal 11.")
    lifecycle.claim("w")
    assert lifecycle.crashed(run.pk, 2, "Signal 11.")
    assert fresh(run).status == "failed"
    assert "in the same way at step 40" in fresh(run).reason


def test_ends_at_other_steps_are_tried_three_times_unless_there_is_progress():
    run = attempt_of(a_running_run(step=1))
    for number in (1, 2, 3):
        Run.objects.filter(pk=run.pk).update(step=number * 10)
        lifecycle.crashed(run.pk, number, "Signal 9.")
        if number < 3:
            assert lifecycle.claim("w").fence == number + 1
    assert fresh(run).status == "failed"
    assert lifecycle.retry(run, "ada")
    assert lifecycle.claim("w").fence == 4
    Run.objects.filter(pk=run.pk).update(step=50)
    lifecycle.crashed(run.pk, 4, "Signal 9.")
    assert fresh(run).status == "queued"  # the tries before a person said "again" do not count


def test_a_retry_goes_on_from_the_checkpoint_or_from_the_start_on_request():
    run = a_run(status="failed", fence=1, reason="It diverged.", finished=timezone.now())
    Artifact.objects.create(run=run, kind="resume", path="a", sha256="", bytes=1, step=5, fence=1)
    assert lifecycle.retry(run, "ada")
    assert (fresh(run).status, fresh(run).reason, fresh(run).finished) == ("queued", "", None)
    assert run.artifacts.count() == 1
    assert not lifecycle.retry(run, "ada")
    Run.objects.update(status="cancelled")
    assert lifecycle.retry(run, "ada", from_start=True)
    assert run.artifacts.count() == 0


def test_a_retried_teacher_is_in_the_making_again():
    run = a_running_run(purpose=Run.Purpose.TEACHER, makes=a_teacher("a", status=Readiness.PREPARING))
    lifecycle.fail(run.pk, 1, "It diverged.")
    assert lifecycle.retry(run, "ada")
    assert (Teacher.objects.get().status, Teacher.objects.get().error) == ("preparing", "")
