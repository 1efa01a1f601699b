"""Signs of life: work that goes on gives them, work that hangs does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from worker.distill import alive, data, events, trainer
from worker.distill.alive import Signs, bytes_moved, while_bytes_move
from worker.distill.data import _report
from worker.distill.errors import StopRequested
from worker.distill.events import Alive, Phase
from worker.distill.spec import PrepareSpec, TeacherCache

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts a process's bytes")


def test_however_often_it_is_asked_it_speaks_every_so_often(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    said = []
    sign = Signs(said.append)
    for _ in range(400):  # a hundred seconds
        now[0] += 0.25
        sign()
    assert said == [Alive()] * 10


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(alive, "EVERY", 0.05)


def shown(seconds: float = 10.0):
    """An event, and what sets it."""
    seen = threading.Event()
    return seen, seen.set


@LINUX
def test_a_process_that_writes_is_alive(soon, tmp_path):
    seen, sign = shown()
    end = time.monotonic() + 20
    with while_bytes_move(sign), open(tmp_path / "download", "wb", buffering=0) as file:
        while not seen.is_set():
            assert time.monotonic() < end
            file.write(bytes(100_000))


@LINUX
def test_a_process_that_waits_for_bytes_that_never_come_is_not(soon):
    seen, sign = shown()
    reader, writer = os.pipe()
    threading.Timer(1.0, lambda: os.close(writer)).start()
    with while_bytes_move(sign), open(reader, "rb") as file:
        file.read()  # until the timer; twenty looks
    assert not seen.is_set()


@LINUX
def test_reading_counts_too(tmp_path):
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    before = bytes_moved()
    (tmp_path / "file").read_bytes()
    assert 1_000_000 <= bytes_moved() - before < 2_000_000


def asks_in(phases):
    """(reporter, should_stop): the phases in which should_stop was asked, with how often."""
    now = ["before"]

    def report(event):
        if isinstance(event, Phase):
            now[0] = event.name

    def should_stop():
        phases[now[0]] = phases.get(now[0], 0) + 1
        return False

    return report, should_stop


def test_every_part_of_a_training_shows_that_it_goes_on(spec, tmp_path):
    phases = {}
    run = spec(epochs=2).model_copy(update={"cache": TeacherCache(folder=str(tmp_path / "cache"))})
    trainer.train(run, *asks_in(phases))
    assert phases["training"] >= 2 * (6 + 1 + 1)  # each step, validation, the cache's pass
    assert phases["evaluation"] >= 2
    assert phases["compression"] >= 2 * 13  # the forwards that are timed, of student and teacher


def test_a_run_can_be_stopped_while_its_student_is_measured(spec):
    phases = {}
    report, should_stop = asks_in(phases)
    with pytest.raises(StopRequested) as stopped:
        trainer.train(spec(epochs=1), report, lambda: should_stop() or "compression" in phases)
    assert stopped.value.step == 6


def test_a_preparation_shows_at_each_picture_that_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(_report, "INTERVAL", 0)
    for k in range(20):
        path = tmp_path / "pictures" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), k).save(path)
    phases = {}
    request = PrepareSpec(
        kind="image_folder", source=str(tmp_path / "pictures"), output=str(tmp_path / "out")
    )
    data.prepare(request, *asks_in(phases))
    assert sum(phases.values()) >= 2 * 20  # looked at, then decoded


def test_the_engine_speaks_up_when_it_has_been_silent_and_never_after_its_last_event(tmp_path):
    """The real process, its interval shortened."""
    program = (
        "import sys; from worker.distill import alive; alive.EVERY = 0.01;"
        "sys.argv = ['x', 'prepare', sys.argv[1]]; from worker.distill.__main__ import main; sys.exit(main())"
    )
    request = tmp_path / "spec.json"
    request.write_text(json.dumps({"kind": "digits", "output": str(tmp_path / "digits")}))
    done = subprocess.run(
        [sys.executable, "-c", program, str(request)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    said = [events.parse(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert Alive() in said
    assert isinstance(said[-1], events.Result)
