"""What the engine says ends up in rows and frames, once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from django.db import OperationalError, connection

from experiments import lifecycle, metric_store, recorder, runspec, stream
from experiments.models import Artifact, LogLine, Run, Series
from experiments.recorder import Recorder
from worker.distill.events import Checkpoint, Log, Metrics, Phase, Progress

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
    path.write_bytes(b"state")
    return Checkpoint(kind=kind, path=str(path), sha256="0" * 64, bytes=5, step=step)


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
    recorder.go_back(run)
    run.refresh_from_db()
    assert run.accuracy is None  # nothing is left before the first checkpoint


def test_the_cursor_stands_behind_every_written_point(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 5, lr=1.0))
    record.close()
    assert Run.objects.get(pk=run.pk).live_cursor == "1-0"
    assert frames[0]["points"]["lr"] == {"s": [1, 2, 3, 4, 5], "v": [1, 2, 3, 4, 5], "w": [1, 2, 3, 4, 5]}


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


def test_a_database_that_is_away_loses_nothing(frames, monkeypatch):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 5, lr=1.0))
    record.feed(Log(text="kept", wall=1.0))

    def away(execute, sql, params, many, context):
        raise OperationalError("the server closed the connection unexpectedly")

    with connection.execute_wrapper(away):
        assert not record.flush()
    record.feed(metrics(6, 9, lr=1.0))
    assert record.close()
    assert steps(run, "lr") == list(range(1, 10))
    assert run.log.count() == 1


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
    recorder.go_back(again)
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
    checkpoint(run, 40)  # the worker died before it could say so
    again = second_attempt(run)
    recorder.go_back(again)
    assert [path.name for path in runspec.attempt_folder(again).iterdir()] == ["resume-0000000010.pt"]
    assert steps(run, "loss/total") == list(range(1, 11))


def test_without_a_checkpoint_everything_begins_anew(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(metrics(1, 20, loss_total=1.0))
    record.close()
    recorder.go_back(second_attempt(run))
    assert Series.objects.get().count == 0


def test_checkpoints_of_an_earlier_attempt_go_when_this_one_has_its_own(frames):
    run = a_running_run()
    record = Recorder(run)
    record.feed(checkpoint(run, 10))
    record.close()
    again = second_attempt(run)
    recorder.go_back(again)
    record = Recorder(again)
    record.feed(checkpoint(again, 20))
    record.close()
    assert list(run.artifacts.values_list("step", "fence")) == [(20, 2)]
    assert not (run.folder / "1" / "resume-0000000010.pt").exists()


def test_a_run_that_was_cancelled_meanwhile_is_fenced_off(frames):
    run = a_running_run()
    record = Recorder(run)
    assert lifecycle.request_stop(run, "someone")
    assert lifecycle.stopped(run.pk, 1)
    record.feed(metrics(1, 5, lr=1.0))
    with pytest.raises(metric_store.Fenced):
        record.flush()
