"""What the engine says ends up in rows and frames, once."""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import OperationalError, connection

from experiments import checkpoints, lifecycle, metric_store, recorder, runspec, stream
from experiments.models import Artifact, LogLine, Run, Series
from experiments.recorder import Recorder
from worker.distill import events
from worker.distill.events import Checkpoint, Log, Metrics, Phase, Progress, Resumed

from .make import a_running_run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What would go to Redis."""
    sent: list[dict] = []

    def publish(run_id: int, frame: dict) -> str:
        sent.append(frame)
        return f"{len(sent)}-0"

    monkeypatch.setattr(stream, "publish", publish)
    return sent


def metrics(first: int, last: int, **series: float) -> Metrics:
    steps = list(range(first, last + 1))
    values = {name.replace("_", "/"): [value * step for step in steps] for name, value in series.items()}
    return Metrics(steps=steps, wall=[float(step) for step in steps], values=values)


def checkpoint(run: Run, step: int, kind: str = "resume", name: str | None = None) -> Checkpoint:
    path = runspec.attempt_folder(run) / (name or f"resume-{step:010d}.pt")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = f"state of step {step}".encode()
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Checkpoint(kind=kind, path=str(path), sha256=digest, bytes=len(content), step=step)


def steps(run: Run, name: str) -> list[int]:
    series = Series.objects.get(run=run, name=name)
    return metric_store.read(series, width=100_000).step.tolist()


def test_points_lines_and_progress_become_rows(frames):
    run = a_running_run(status=Run.Status.PREPARING)
    record = Recorder(run)
    record.feed(Phase(name="training"))
    record.feed(metrics(1, 5, loss_total=1.0, val_top1=0.1))
    record.feed(Log(text="hello", wall=1.0))
    record.feed(Progress(step=5, total_steps=50, epoch=1, epochs=10, rate=3.0, eta=7.0))
    assert record.close()
    run.refresh_from_db()
    assert (run.status, run.phase, run.step, run.total_steps, run.rate) == ("running", "training", 5, 50, 3.0)
    assert steps(run, "loss/total") == [1, 2, 3, 4, 5]
    assert run.metrics["val/top1"] == {"last": 0.5, "best": 0.5, "min": 0.1, "max": 0.5, "step": 5}
    assert run.accuracy == 0.5
    assert run.log.get().text == "hello"


def test_a_multi_label_runs_accuracy_is_its_map(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 5, loss_total=1.0, val_map=0.2, val_f1=0.9))
    assert record.close()
    run.refresh_from_db()
    assert run.accuracy == run.metrics["val/map"]["max"] == 1.0
    checkpoints.go_back(run)
    run.refresh_from_db()
    assert run.accuracy is None  # nothing is left before the first checkpoint


def test_the_cursor_stands_behind_every_written_point(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 5, lr=1.0))
    record.close()
    assert Run.objects.get(pk=run.pk).live_cursor == "1-0"
    assert frames[0]["points"]["lr"] == {"s": [1, 2, 3, 4, 5], "v": [1, 2, 3, 4, 5], "w": [1, 2, 3, 4, 5]}


def test_what_is_not_finite_reaches_store_frame_and_journal_unchanged(frames):
    run = a_running_run()
    record = Recorder(run)
    values = [1.0, math.nan, math.inf, -math.inf]
    said = Metrics(steps=[1, 2, 3, 4], wall=[0.0] * 4, values={"loss/total": values, "lr": [0.1] * 4})
    record.feed(events.parse(said.model_dump_json()))  # as on the engine's pipe
    with away():
        assert not record.flush()
    assert record.journal
    assert record.close()
    shown = frames[0]["points"]
    assert shown["loss/total"]["v"] == [1.0, None, None, None]
    assert shown["loss/total"]["o"] == [[2, "nan"], [3, "inf"], [4, "-inf"]]
    assert "o" not in shown["lr"]
    series = run.series.get(name="loss/total")
    assert series.odd == [[2, 2, "nan"], [3, 3, "inf"], [4, 4, "-inf"]]
    assert repr(metric_store.read(series).value.tolist()) == repr(values)
    run.refresh_from_db()
    assert run.metrics["loss/total"] == {"last": None, "best": 1.0, "min": 1.0, "max": 1.0, "step": 4}


def test_frames_go_out_before_rows_are_written(frames):
    record = Recorder(a_running_run())
    record.feed(metrics(1, 5, lr=1.0))
    record.framed -= 0.3
    record.tick()
    assert len(frames) == 1
    assert not Series.objects.exists()
    record.flushed -= 1.1
    record.tick()
    assert Series.objects.get().count == 5


def test_events_that_come_again_change_nothing(frames):
    run = a_running_run()
    for _ in range(2):
        record = Recorder(run)
        record.feed(metrics(1, 300, loss_total=1.0))
        record.close()
    assert steps(run, "loss/total") == list(range(1, 301))


def test_a_stale_recorder_changes_nothing(frames):
    run = a_running_run()
    record = Recorder(run)
    Run.objects.filter(pk=run.pk).update(fence=2)
    record.feed(metrics(1, 5, lr=1.0))
    record.feed(Log(text="from the dead", wall=1.0))
    record.feed(checkpoint(run, 5))
    record.feed(Progress(step=5, total_steps=50, epoch=1, epochs=10))
    with pytest.raises(metric_store.Fenced):
        record.flush()
    assert not Series.objects.exists()
    assert not LogLine.objects.exists()
    assert not Artifact.objects.exists()
    assert Run.objects.get(pk=run.pk).step == 0


def test_lines_are_numbered_on_from_the_last_attempt(frames):
    run = a_running_run()
    for text in ("one", "two"):
        record = Recorder(run)
        record.feed(Log(text=text, wall=1.0))
        record.close()
    assert list(run.log.values_list("n", "text")) == [(1, "one"), (2, "two")]


@contextmanager
def away():
    """The database answers nothing."""

    def refuse(execute, sql, params, many, context):
        raise OperationalError("the server closed the connection unexpectedly")

    with connection.execute_wrapper(refuse):
        yield


def test_while_the_database_is_away_everything_goes_into_a_journal_and_from_there_back(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 5, lr=1.0))
    record.feed(Log(text="first", wall=1.0))
    with away():
        assert not record.flush()
        record.feed(metrics(6, 9, lr=1.0))
        record.feed(checkpoint(run, 9))
        assert not record.flush()
        assert not record.close(give_up=lambda: True)
    assert record.journal
    assert not record.points  # nothing waits in memory
    record.feed(metrics(10, 12, lr=1.0))
    record.feed(Log(text="last", wall=1.0))
    assert record.close()
    assert steps(run, "lr") == list(range(1, 13))
    assert list(run.log.values_list("text", flat=True)) == ["first", "last"]
    assert run.artifacts.get().step == 9
    assert not record.journal
    assert sum(len(frame.get("points", {}).get("lr", {}).get("s", [])) for frame in frames) == 12  # each once


def test_a_disk_that_is_full_as_well_leaves_everything_in_memory(frames):
    run = a_running_run()
    record = Recorder(run)
    folder = record.journal.path.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way: nothing can be written below")
    record.feed(metrics(1, 5, lr=1.0))
    with away():
        assert not record.flush()
    folder.unlink()
    assert record.close()
    assert steps(run, "lr") == list(range(1, 6))


def test_the_next_attempt_reads_the_journal_of_a_worker_that_died(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 5, lr=1.0))
    record.feed(checkpoint(run, 5))
    with away():
        assert not record.flush()
    with record.journal.path.open("a") as file:
        file.write('{"type": "metrics", "steps": [6')  # cut short by the end
    again = second_attempt(run)
    recorder.adopt(again)
    checkpoints.go_back(again)
    assert steps(run, "lr") == list(range(1, 6))
    assert (run.artifacts.get().step, run.artifacts.get().fence) == (5, 1)
    assert not record.journal


def test_a_flood_of_lines_pushes_the_oldest_out(frames, monkeypatch):
    monkeypatch.setattr(recorder, "KEPT_LINES", 100)
    run = a_running_run()
    record = Recorder(run)
    for number in range(1, 451):
        record.feed(Log(text=str(number), wall=1.0))
        if number % 30 == 0:
            record.flush()
    record.close()
    kept = list(run.log.values_list("text", flat=True))
    assert kept[-1] == "450"
    assert 100 <= len(kept) <= 200


def test_an_attempt_that_goes_on_says_so_and_whether_exactly(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(Resumed(step=40))
    record.feed(Resumed(step=40, exact=False, why="torch 2.12.0 → 2.13.0"))
    record.close()
    run.refresh_from_db()
    texts = list(run.events.values_list("text", flat=True))
    assert texts == [
        "Goes on from step 40, exactly.",
        "Goes on from step 40, not exactly: torch 2.12.0 → 2.13.0.",
    ]
    assert run.inexact == "torch 2.12.0 → 2.13.0"


def test_checkpoints_the_engine_dropped_lose_their_rows(frames):
    run = a_running_run()
    record = Recorder(run)
    files = [checkpoint(run, step) for step in (10, 20, 30)]
    record.feed(files[0])
    record.feed(checkpoint(run, 20, "student", "student.safetensors"))
    record.flush()
    Path(files[0].path).unlink()
    record.feed(files[1])
    record.feed(files[2])
    record.close()
    kept = run.artifacts.order_by("pk").values_list("kind", "step")
    assert list(kept) == [("student", 20), ("resume", 20), ("resume", 30)]
    assert run.artifacts.filter(kind="student").get().path == f"runs/{run.pk}/1/student.safetensors"


def test_a_checkpoint_is_written_without_waiting_for_the_second(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(checkpoint(run, 10))
    record.flushed = time.monotonic() - 0.25
    record.tick()
    assert run.artifacts.count() == 1


def second_attempt(run: Run) -> Run:
    Run.objects.filter(pk=run.pk).update(fence=2)
    return Run.objects.get(pk=run.pk)


def test_a_further_attempt_goes_on_from_the_last_checkpoint(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 20, loss_total=1.0))
    record.feed(checkpoint(run, 20))
    record.feed(metrics(21, 33, loss_total=1.0))
    record.feed(metrics(30, 30, val_top1=0.01))
    record.close()
    again = second_attempt(run)
    checkpoints.go_back(again)
    assert steps(run, "loss/total") == list(range(1, 21))
    assert [path.name for path in runspec.attempt_folder(again).iterdir()] == ["resume-0000000020.pt"]
    again.refresh_from_db()
    assert (again.step, again.accuracy, again.metrics["loss/total"]["step"]) == (20, None, 20)


def test_a_checkpoint_without_a_row_is_left_behind(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 20, loss_total=1.0))
    record.feed(checkpoint(run, 10))
    record.close()
    unsaid = Path(checkpoint(run, 40).path)  # written, and the worker died before it could say so
    half = unsaid.with_name(".writing-resume-0000000050-1")
    half.write_bytes(b"half")
    again = second_attempt(run)
    checkpoints.go_back(again)
    assert [path.name for path in runspec.attempt_folder(again).iterdir()] == ["resume-0000000010.pt"]
    assert [path.name for path in unsaid.parent.iterdir()] == ["resume-0000000010.pt"]  # still the row's
    assert steps(run, "loss/total") == list(range(1, 11))


def test_without_a_checkpoint_everything_begins_anew(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 20, loss_total=1.0))
    record.close()
    checkpoints.go_back(second_attempt(run))
    assert Series.objects.get().count == 0


def test_the_last_two_checkpoints_are_kept_whatever_attempts_they_are_of(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(checkpoint(run, 5))
    record.feed(checkpoint(run, 10))
    record.close()
    again = second_attempt(run)
    checkpoints.go_back(again)
    record = Recorder(again)
    record.feed(checkpoint(again, 20))
    record.close()
    assert [a.step for a in run.artifacts.all()][:2] == [20, 10]
    record.feed(checkpoint(again, 30))
    record.close()
    assert list(run.artifacts.values_list("step", "fence")) == [(30, 2), (20, 2)]
    assert not (run.folder / "1").exists()


def three_checkpoints(run: Run) -> list[Path]:
    record = Recorder(run)
    events = [checkpoint(run, step) for step in (10, 20, 30)]
    record.feed(metrics(1, 33, lr=1.0))
    for event in events:
        record.feed(event)
    record.close()
    return [Path(event.path) for event in events]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_that_is_said(frames):
    run = a_running_run()
    paths = three_checkpoints(run)
    paths[2].write_bytes(b"cut")
    paths[1].unlink()
    again = second_attempt(run)
    checkpoints.go_back(again)
    again.refresh_from_db()
    assert again.step == 10
    assert steps(run, "lr") == list(range(1, 11))
    first, second = run.events.values_list("text", flat=True)
    assert "step 30" in first
    assert "damaged" in first
    assert "step 20" in second
    assert "cannot be read" in second


def test_when_all_checkpoints_are_gone_a_person_decides(frames):
    run = a_running_run()
    for path in three_checkpoints(run):
        path.unlink()
    with pytest.raises(checkpoints.CheckpointsGone, match="try again from the start"):
        checkpoints.go_back(second_attempt(run))
    assert steps(run, "lr") == list(range(1, 34))  # nothing is forgotten before that


def test_a_run_that_was_cancelled_meanwhile_is_fenced_off(frames):
    run = a_running_run()
    record = Recorder(run)
    assert lifecycle.request_stop(run, "someone")
    assert lifecycle.stopped(run.pk, 1)
    record.feed(metrics(1, 5, lr=1.0))
    with pytest.raises(metric_store.Fenced):
        record.flush()
