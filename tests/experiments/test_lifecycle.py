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

from experiments import fair_queue, jobs, lifecycle, queue, stream, sweep
from experiments.models import Artifact, Attempt, Dataset, Project, Pulse, Run, RunEvent, Teacher
from experiments.models.catalogue import Readiness
from worker.supervisor import ROOT

from .make import a_dataset, a_project, a_run, a_running_run, a_teacher

pytestmark = pytest.mark.django_db

RESULT = {
    "student": {"top1": 0.9, "parameters": 10, "bytes": 40, "flops": 20, "latency_p50_ms": 0.5},
    "teacher": None,
    "steps": 100,
    "device": "cpu",
    "seconds": 1.0,
}
PAST = timezone.now() - timedelta(minutes=5)


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Messages as they would go to the broker, and no Redis."""
    messages: list[tuple[str, object]] = []
    monkeypatch.setattr(queue, "_send", lambda task, key, to: messages.append((task, key)))
    monkeypatch.setattr(queue, "waiting_messages", lambda name: len(messages))
    monkeypatch.setattr(stream, "publish", lambda run_id, frame: None)
    return messages


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


# --- Submit and claim -------------------------------------------------------------------------------------
def test_a_submitted_run_is_queued_and_sent_after_the_commit(sent, django_capture_on_commit_callbacks):
    run = a_run()
    with django_capture_on_commit_callbacks(execute=True):
        assert lifecycle.submit(run, "ada")
        assert sent == []
    assert sent == [("worker.tasks.run", run.pk)]
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


def test_a_lease_that_ran_out_is_only_a_suspicion_and_a_renewal_ends_it():
    run = a_running_run(lease_expires=PAST)
    swept()
    assert fresh(run).lost
    assert lifecycle.claim("w2") is None  # for as long as its worker could still renew
    assert lifecycle.renew(run.pk, 1)
    assert not fresh(run).lost
    swept()
    assert fresh(run).silent_since is None


def test_a_clock_set_back_by_an_hour_keeps_no_dead_worker_alive():
    run = a_running_run(lease_expires=timezone.now() + timedelta(hours=1))
    swept()
    assert fresh(run).lost


def test_a_worker_that_starts_anew_gives_up_what_it_held():
    run = a_running_run(lease_owner="cpu0@here", lease_expires=timezone.now() + timedelta(seconds=20))
    assert lifecycle.forsake("cpu0@there") == 0
    assert lifecycle.forsake("cpu0@here") == 1
    assert lifecycle.claim("w2").pk == run.pk
    assert "cpu0@here, went silent" in run.events.last().text


def test_of_many_that_sweep_one_acts():
    swept()
    assert not sweep.sweep("another")
    Pulse.objects.update(at=PAST)
    assert [sweep.sweep(name) for name in ("a", "b", "c")] == [True, False, False]
    assert Pulse.objects.get().by == "a"


# --- Whose turn it is -------------------------------------------------------------------------------------
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


# --- Tried again ------------------------------------------------------------------------------------------
def attempt_of(run: Run, number: int = 1) -> Run:
    Attempt.objects.create(run=run, number=number, worker="w")
    return run


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


@pytest.mark.parametrize(("asked", "status"), [("stop", "cancelled"), ("pause", "paused")])
def test_a_sweep_does_what_was_wanted_of_a_run_whose_worker_is_gone(asked, status):
    run = lost(asked=asked)
    swept()
    assert (fresh(run).status, run.attempts.get().outcome) == (status, "lost")


def test_a_full_disk_pauses_and_room_resumes(settings, tmp_path):
    settings.KDWEB_DATA = tmp_path
    run = attempt_of(a_running_run())
    assert lifecycle.disk_full(run.pk, 1, "The disk is full.")
    assert (fresh(run).status, fresh(run).hold, fresh(run).reason) == ("paused", "disk", "The disk is full.")
    swept()
    assert fresh(run).status == "paused"  # it has only just met the full disk
    run.attempts.update(ended=PAST)
    swept()
    assert fresh(run).status == "queued"
    held = queued()
    lifecycle.request_pause(held, "ada")
    swept()
    assert fresh(held).status == "paused"  # a person's pause is a person's to end


def test_a_disk_without_a_file_left_is_full_as_well(settings, tmp_path, monkeypatch):
    settings.KDWEB_DATA = tmp_path
    run = attempt_of(a_running_run())
    assert lifecycle.disk_full(run.pk, 1, "The disk is full.")
    run.attempts.update(ended=PAST)
    found = list(os.statvfs(tmp_path))
    found[5:8] = [1000, 5, 5]  # files in all, free, free for us
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: os.statvfs_result(found))
        swept()
        assert fresh(run).status == "paused"
    swept()
    assert fresh(run).status == "queued"


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


def test_a_teacher_in_the_making_becomes_ready_and_wakes_who_waits(sent, django_capture_on_commit_callbacks):
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
    assert sent == [("worker.tasks.run", waits.pk)]


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


def test_a_worker_that_shuts_down_hands_its_run_back(sent, django_capture_on_commit_callbacks):
    run = a_running_run()
    Attempt.objects.create(run=run, number=1, worker="w")
    with django_capture_on_commit_callbacks(execute=True):
        assert lifecycle.stopped(run.pk, 1)
    assert fresh(run).status == "queued"
    assert sent == [("worker.tasks.run", run.pk)]
    assert run.attempts.get().outcome == "handed back"
    assert lifecycle.claim("w2").fence == 2


# --- The sweep --------------------------------------------------------------------------------------------
def test_the_sweep_sends_what_waits_without_a_message(sent, django_capture_on_commit_callbacks):
    runs = [queued(), lost(name="silent")]
    queued(name="waits for its teacher", teacher=a_teacher(status=Readiness.PREPARING))
    for _ in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            swept()
    assert sorted(sent) == sorted(("worker.tasks.run", run.pk) for run in runs)


def test_the_sweep_sends_nothing_while_the_broker_is_away(
    monkeypatch, sent, django_capture_on_commit_callbacks
):
    queued()
    monkeypatch.setattr(queue, "waiting_messages", lambda name: None)
    with django_capture_on_commit_callbacks(execute=True):
        swept()
    assert sent == []


def test_the_sweep_cancels_a_stopped_run_whose_worker_is_silent():
    run = lost(asked="stop")
    swept()
    assert fresh(run).status == "cancelled"


def test_the_sweep_is_cheap(django_assert_max_num_queries):
    for number in range(30):
        queued(name=f"run {number}")
    swept()
    Pulse.objects.update(at=PAST)
    with django_assert_max_num_queries(12):  # however many wait
        sweep.sweep("w")


def test_short_work_is_held_by_one_and_sent_again_when_its_worker_dies(
    sent, django_capture_on_commit_callbacks
):
    dataset = a_dataset("new", status=Readiness.PREPARING)
    held = jobs.take(Dataset, dataset.pk)
    assert held is not None
    assert jobs.take(Dataset, dataset.pk) is None
    with django_capture_on_commit_callbacks(execute=True):
        jobs.sweep()
    assert sent == []
    Dataset.objects.update(lease_expires=PAST)
    with django_capture_on_commit_callbacks(execute=True):
        jobs.sweep()
    assert sent == [("worker.tasks.prepare_dataset", dataset.pk)]
    again = jobs.take(Dataset, dataset.pk)
    assert not jobs.finish(held, status=Readiness.READY)
    assert jobs.finish(again, status=Readiness.READY)
    assert Dataset.objects.get(pk=dataset.pk).tries == 0


def test_short_work_that_kills_its_worker_is_given_up():
    dataset = a_dataset("deadly", status=Readiness.PREPARING)
    for _ in range(jobs.MAX_TRIES):
        assert not jobs.gave_up(jobs.take(Dataset, dataset.pk))
        Dataset.objects.update(lease_expires=PAST)
    assert "died 3 times" in jobs.gave_up(jobs.take(Dataset, dataset.pk))


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
