"""Who may change a run, from what to what, and what else happens then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from experiments import lifecycle
from experiments.models import Artifact, Attempt, Run, RunEvent, Teacher
from experiments.models.catalogue import Readiness
from worker.supervisor import ROOT

from .lives import RESULT, attempt_of, fresh, lost, queued
from .make import a_dataset, a_run, a_running_run, a_teacher

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nudges")]


# --- Submit and claim -------------------------------------------------------------------------------------
def test_a_submitted_run_is_queued_and_sent_after_the_commit(nudges, django_capture_on_commit_callbacks):
    run = a_run()
    with django_capture_on_commit_callbacks(execute=True):
        assert lifecycle.submit(run, "ada")
        assert nudges == []
    assert nudges == [("worker.tasks.run", run.pk)]
    assert fresh(run).status == "queued"
    event = RunEvent.objects.get(run=run)
    assert (event.status, event.actor, event.text) == ("queued", "ada", "Submitted.")


def test_a_double_submit_is_one_submit():
    run = a_run()
    assert lifecycle.submit(run, "ada")
    assert not lifecycle.submit(run, "ada")
    assert RunEvent.objects.count() == 1


def test_a_claim_takes_the_lease_and_the_next_fence():
    run = queued()
    claimed = lifecycle.claim("cpu0@here", "CPU")
    assert claimed is not None
    assert (claimed.pk, claimed.status, claimed.fence, claimed.lease_owner) == (
        run.pk,
        "preparing",
        1,
        "cpu0@here",
    )
    assert claimed.lease_expires > timezone.now()
    assert claimed.started is not None
    attempt = Attempt.objects.get()
    assert (attempt.number, attempt.worker, attempt.device) == (1, "cpu0@here", "CPU")
    assert lifecycle.claim("cpu1@here") is None


def test_a_run_whose_teacher_is_in_the_making_waits():
    teacher = a_teacher(status=Readiness.PREPARING)
    run = queued(teacher=teacher)
    assert lifecycle.claim("w") is None
    assert fresh(run).status == "queued"
    Teacher.objects.update(status=Readiness.READY)
    assert lifecycle.claim("w") is not None


def test_a_run_whose_dataset_is_being_prepared_waits():
    queued(dataset=a_dataset("slow", status=Readiness.PREPARING))
    assert lifecycle.claim("w") is None


@pytest.mark.parametrize("what", ["teacher", "dataset"])
def test_a_run_whose_input_failed_fails_with_the_reason(what):
    if what == "teacher":
        run = queued(teacher=a_teacher(status=Readiness.FAILED, error="It diverged."))
    else:
        run = queued(dataset=a_dataset("broken", status=Readiness.FAILED, error="It diverged."))
    assert lifecycle.claim("w") is None
    assert fresh(run).status == "failed"
    assert what in fresh(run).reason
    assert "It diverged." in fresh(run).reason


def test_a_run_is_ranked_by_its_score_and_by_top1_where_there_is_none():
    for student, accuracy in (({"top1": 0.9}, 0.9), ({"score": 0.4, "top1": None, "map": 0.4}, 0.4)):
        run = a_running_run()
        assert lifecycle.succeed(run.pk, 1, RESULT | {"student": RESULT["student"] | student})
        run.refresh_from_db()
        assert run.accuracy == accuracy


def test_a_silent_run_is_claimed_again_with_the_next_fence():
    lost()
    claimed = lifecycle.claim("w2")
    assert (claimed.fence, claimed.status) == (2, "preparing")
    first, second = Attempt.objects.all()
    assert (first.outcome, second.outcome) == ("lost", "")


def test_a_run_with_a_living_worker_is_nobody_elses():
    a_running_run(lease_expires=timezone.now() + timedelta(seconds=5))
    assert lifecycle.claim("w2") is None


def test_a_worker_that_starts_anew_gives_up_what_it_held():
    run = a_running_run(lease_owner="cpu0@here", lease_expires=timezone.now() + timedelta(seconds=20))
    assert lifecycle.forsake("cpu0@there") == 0
    assert lifecycle.forsake("cpu0@here") == 1
    assert lifecycle.claim("w2").pk == run.pk
    assert "cpu0@here, went silent" in run.events.last().text


# --- Pausing ----------------------------------------------------------------------------------------------
def test_what_waits_is_paused_at_once_and_resumed():
    run = queued()
    assert lifecycle.request_pause(run, "ada")
    assert not lifecycle.request_pause(run, "ada")
    assert (fresh(run).status, fresh(run).reason, fresh(run).hold) == ("paused", "Paused by ada.", "person")
    assert lifecycle.claim("w") is None
    assert lifecycle.resume(run, "ada")
    assert not lifecycle.resume(run, "ada")
    assert (fresh(run).reason, fresh(run).hold) == ("", "")
    assert lifecycle.claim("w").pk == run.pk


def test_what_runs_is_paused_when_its_worker_has_let_go():
    run = attempt_of(a_running_run())
    assert lifecycle.request_pause(run, "ada")
    assert lifecycle.leave_wanted(run.pk)
    assert lifecycle.stopped(run.pk, 1)
    assert (fresh(run).status, fresh(run).asked, run.attempts.get().outcome) == ("paused", "", "paused")


def test_a_pause_is_withdrawn_and_a_stop_outdoes_it():
    run = attempt_of(a_running_run())
    assert lifecycle.request_pause(run, "ada")
    assert lifecycle.resume(run, "ada")
    assert not lifecycle.leave_wanted(run.pk)
    assert lifecycle.request_pause(run, "ada")
    assert lifecycle.request_stop(run, "ada")
    assert not lifecycle.request_pause(run, "ada")
    assert lifecycle.stopped(run.pk, 1)
    assert fresh(run).status == "cancelled"


def test_a_paused_run_can_be_stopped():
    run = a_run(status="paused", hold="disk")
    assert lifecycle.request_stop(run, "ada")
    assert (fresh(run).status, fresh(run).hold) == ("cancelled", "")


# --- Deleting ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", ["draft", "queued", "paused", "succeeded", "failed", "cancelled"])
def test_a_run_in_nobodys_hands_is_deleted_with_its_files(
    status, settings, tmp_path, django_capture_on_commit_callbacks
):
    settings.KDWEB_DATA = tmp_path
    run = a_run(status=status)
    run.folder.mkdir(parents=True)
    with django_capture_on_commit_callbacks(execute=True):
        lifecycle.delete(run, "ada")
    assert not Run.objects.exists()
    assert not run.folder.exists()


def test_a_run_at_work_or_with_a_teacher_of_its_own_is_not_deleted():
    run = a_running_run()
    with pytest.raises(lifecycle.Refused, match="stop it first"):
        lifecycle.delete(run, "ada")
    made = a_run(status="succeeded", makes=a_teacher("big"))
    with pytest.raises(lifecycle.Refused, match="delete the teacher first"):
        lifecycle.delete(made, "ada")
    assert Run.objects.count() == 2


def test_the_history_is_append_only():
    run = queued()
    lifecycle.request_stop(run, "ada")
    event = run.events.get()
    event.text = "It never happened."
    for change in (event.save, run.events.all().delete, lambda: run.events.update(text="")):
        with pytest.raises(TypeError, match="history"):
            change()


# --- Fencing ----------------------------------------------------------------------------------------------
def test_a_stale_attempt_changes_nothing():
    run = lost()
    lifecycle.claim("w2")
    before = Run.objects.filter(pk=run.pk).values().get()
    assert not lifecycle.renew(run.pk, 1)
    assert not lifecycle.write(run.pk, 1, step=999)
    assert not lifecycle.running(run.pk, 1)
    assert not lifecycle.succeed(run.pk, 1, RESULT)
    assert not lifecycle.fail(run.pk, 1, "from the dead")
    assert not lifecycle.stopped(run.pk, 1)
    assert Run.objects.filter(pk=run.pk).values().get() == before
    assert lifecycle.renew(run.pk, 2)


@pytest.mark.parametrize("status", Run.ENDED)
def test_an_ended_run_stays_as_it_ended(status):
    run = a_run(status=status, fence=1)
    assert not lifecycle.submit(run, "ada")
    assert not lifecycle.request_stop(run, "ada")
    assert lifecycle.claim("w") is None
    assert not lifecycle.succeed(run.pk, 1, RESULT)
    assert not lifecycle.fail(run.pk, 1, "too late")
    assert fresh(run).status == status


def test_every_edge_that_is_not_drawn_is_refused():
    for target, sources in lifecycle.SOURCES.items():
        for source in Run.Status.values:
            run = a_run(status=source, fence=1)
            done = lifecycle._change(run.pk, target, lifecycle.Q(), "test")
            assert done == (source in sources)
            assert fresh(run).status == (target if done else source)


# --- The end ----------------------------------------------------------------------------------------------
def test_a_success_fills_the_columns_that_lists_read():
    run = a_running_run()
    Attempt.objects.create(run=run, number=1, worker="w")
    assert lifecycle.succeed(run.pk, 1, RESULT)
    run = fresh(run)
    assert (run.status, run.accuracy, run.parameters, run.bytes, run.flops) == ("succeeded", 0.9, 10, 40, 20)
    assert (run.latency_ms, run.step, run.total_steps, run.lease_owner) == (0.5, 100, 100, "")
    assert run.results == RESULT
    assert run.finished is not None
    assert run.attempts.get().outcome == "succeeded"


def test_a_teacher_in_the_making_becomes_ready_and_wakes_who_waits(
    nudges, django_capture_on_commit_callbacks
):
    teacher = a_teacher(status=Readiness.PREPARING)
    run = a_running_run(purpose=Run.Purpose.TEACHER, makes=teacher)
    waits = queued(teacher=teacher)
    Artifact.objects.create(
        run=run, kind="student", path="runs/1/1/s.safetensors", sha256="ab", bytes=1, step=100, fence=1
    )
    with django_capture_on_commit_callbacks(execute=True):
        assert lifecycle.succeed(run.pk, 1, RESULT)
    teacher.refresh_from_db()
    assert (teacher.status, teacher.weights, teacher.sha256) == ("ready", "runs/1/1/s.safetensors", "ab")
    assert teacher.metrics == RESULT["student"]
    assert nudges == [("worker.tasks.run", waits.pk)]


def test_a_failed_or_cancelled_training_leaves_a_failed_teacher():
    failed = a_running_run(purpose=Run.Purpose.TEACHER, makes=a_teacher("a", status=Readiness.PREPARING))
    lifecycle.fail(failed.pk, 1, "loss is NaN at step 3. Lower the learning rate.")
    waits = queued(purpose=Run.Purpose.TEACHER, makes=a_teacher("b", status=Readiness.PREPARING))
    lifecycle.request_stop(waits, "ada")
    first, second = Teacher.objects.order_by("name")
    assert (first.status, second.status) == ("failed", "failed")
    assert "Lower the learning rate." in first.error
    assert "cancelled" in second.error


def test_a_failure_says_why():
    run = a_running_run()
    lifecycle.fail(run.pk, 1, "x" * 2000)
    assert fresh(run).reason == "x" * 2000
    assert len(RunEvent.objects.get().text) == 500


# --- Stopping ---------------------------------------------------------------------------------------------
def test_what_waits_is_cancelled_at_once():
    run = queued()
    assert lifecycle.request_stop(run, "ada")
    assert (fresh(run).status, fresh(run).finished is not None) == ("cancelled", True)
    assert lifecycle.claim("w") is None


def test_what_runs_is_asked_and_cancelled_when_it_has_stopped():
    run = a_running_run()
    assert lifecycle.request_stop(run, "ada")
    assert fresh(run).status == "running"
    assert lifecycle.leave_wanted(run.pk)
    assert lifecycle.stopped(run.pk, 1)
    assert fresh(run).status == "cancelled"


def test_a_worker_that_shuts_down_hands_its_run_back(nudges, django_capture_on_commit_callbacks):
    run = a_running_run()
    Attempt.objects.create(run=run, number=1, worker="w")
    with django_capture_on_commit_callbacks(execute=True):
        assert lifecycle.stopped(run.pk, 1)
    assert fresh(run).status == "queued"
    assert nudges == [("worker.tasks.run", run.pk)]
    assert run.attempts.get().outcome == "handed back"
    assert lifecycle.claim("w2").fence == 2


# --- Many at once -----------------------------------------------------------------------------------------
RACE = """
import json, multiprocessing, os, django; django.setup()
from django.core.management import call_command
from django.db import connections
from experiments import lifecycle
from tests.experiments.make import a_run

def claim_all(start):
    start.wait()
    mine = []
    while run := lifecycle.claim(f"racer {os.getpid()}"): mine.append([run.pk, run.fence])
    return mine

call_command("migrate", verbosity=0)
for n in range(20): a_run(name=str(n), status="queued")
connections.close_all()
fork = multiprocessing.get_context("fork")
with fork.Manager() as manager, fork.Pool(8) as racers:
    start = manager.Barrier(8)
    print(json.dumps(racers.map(claim_all, [start] * 8, chunksize=1)))
"""


def race(env: dict[str, str]) -> list[list[int]]:
    """Eight processes claim for all they are worth, from the same moment on."""
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "kdweb.settings"} | env
    done = subprocess.run([sys.executable, "-c", RACE], cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE)
    return [claim for mine in json.loads(done.stdout) for claim in mine]


def test_in_a_race_of_eight_processes_each_run_is_claimed_once(tmp_path: Path):
    claims = race({"KDWEB_HOME": str(tmp_path), "KDWEB_DATABASE_URL": ""})
    assert len(claims) == 20
    assert len({pk for pk, _ in claims}) == 20
    assert {fence for _, fence in claims} == {1}


@pytest.mark.server
def test_the_same_race_on_postgresql(tmp_path: Path, postgres_url: str):
    claims = race({"KDWEB_HOME": str(tmp_path), "KDWEB_DATABASE_URL": postgres_url})
    assert len(claims) == len({pk for pk, _ in claims}) == 20
