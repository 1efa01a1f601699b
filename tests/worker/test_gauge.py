"""What the machine does becomes curves of the run, over pauses and attempts."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from experiments import checkpoints, lifecycle, metric_store, stream
from experiments.models import Run, Series
from experiments.recorder import Recorder
from tests.experiments.make import a_run
from worker import gauge, machine
from worker.gauge import Gauge

pytestmark = pytest.mark.django_db(transaction=True)
GPU = {
    "name": "NVIDIA H100", "utilisation": 37.0, "memory_used": 5, "memory_total": 9,
    "temperature": 61, "power": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_kept", machine.Kept())
    monkeypatch.setattr(machine, "gpus", lambda: ([GPU], 60.0))
    monkeypatch.setattr(gauge, "EVERY", 0.0)
    monkeypatch.setattr(stream, "publish", lambda run, frame: None)


def claimed(run: Run) -> Run:
    assert lifecycle.take(Run.objects.get(pk=run.pk), "worker", "cpu")
    return Run.objects.get(pk=run.pk)


def measured(run: Run, folder: Path) -> Recorder:
    record = Recorder(run)
    Gauge(run, os.getpid(), folder, record.feed).tick()
    assert record.close()
    return record


def test_the_machine_s_curves_have_units_and_do_not_begin_the_training(tmp_path: Path) -> None:
    run = claimed(a_run(status="queued"))
    measured(run, tmp_path)
    run.refresh_from_db()
    assert run.status == Run.Status.PREPARING
    assert {series.name: series.unit for series in run.series.all()} == {
        "system/cpu": "%", "system/memory": "bytes", "system/engine_memory": "bytes",
        "system/gpu0/utilisation": "%", "system/gpu0/memory": "bytes", "system/gpu0/temperature": "°C",
    }  # fmt: skip
    assert run.metrics["system/gpu0/memory"]["last"] == 5
    own = psutil.Process().memory_info().rss
    assert own / 2 < run.metrics["system/engine_memory"]["last"] < own * 2 + 2**30


def test_a_further_attempt_goes_on_in_seconds_since_the_first_start(tmp_path: Path) -> None:
    run = claimed(a_run(status="queued"))
    measured(run, tmp_path)
    assert lifecycle.stopped(run.pk, run.fence)
    Run.objects.filter(pk=run.pk).update(started=run.started - timedelta(minutes=10))
    again = claimed(run)
    checkpoints.go_back(again)  # to step 0: there is no checkpoint
    measured(again, tmp_path)
    points = metric_store.read(Series.objects.get(run=run, name="system/cpu"))
    first, second = points.step.tolist()
    assert first < 60
    assert 600 <= second < 660
    assert points.wall[1] - points.wall[0] < 60
