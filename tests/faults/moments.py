"""When to strike, and what must hold of a run that has survived it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from experiments import lifecycle
from experiments.models import Dataset, LogLine, Run
from tests.experiments.make import a_dataset, a_teacher
from worker.distill.data.prepared import Writer, load
from worker.distill.spec import hinton
from worker.short import described_by

from .processes import python, until
from .site import Site
from .twins import sha256
from .workers import WorkerProcess

EPOCHS = 20  # 10 steps each: some seconds, with several checkpoints on the way


# --- Striking ---------------------------------------------------------------------------------------------
def die(site: Site, worker: WorkerProcess, number: int = signal.SIGKILL) -> None:
    """The worker's end by a signal, and that of all below it."""
    family = worker.family()
    worker.kill(number)
    site.wait_for(lambda: not any(one.is_running() for one in family), 60)


def freeze_at(processes: Sequence[psutil.Process], sight: Callable[[], bool], seconds: float = 90) -> None:
    """SIGSTOP to the processes at a moment when `sight` holds, and holds still when they stand."""
    end = time.monotonic() + seconds
    while True:
        if sight():
            for one in processes:
                one.suspend()
            until(lambda: all(one.status() == psutil.STATUS_STOPPED for one in processes), 10)
            if sight():
                return
            for one in processes:
                one.resume()
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.0005)


def freeze_in(site: Site, run: Run, engine: psutil.Process, function: str, seconds: float = 120) -> None:
    """SIGSTOP to the engine while it is in this function, as its own stack in the run's console says."""
    end, seen = time.monotonic() + seconds, run.log.filter(text__contains=f" in {function}")
    while True:
        engine.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
        engine.suspend()
        try:
            site.wait_for(seen.exists, 3)  # until the worker has written it down
            return
        except AssertionError:
            engine.resume()
            assert time.monotonic() < end, f"it was never in {function}.{site.tails()}"


def paused(site: Site, run: Run, worker: WorkerProcess, checkpoints: int = 2) -> Run:
    """Stands still, in nobody's hands, with so many checkpoints."""
    site.wait_for(lambda: run.artifacts.filter(kind="resume").count() >= checkpoints)
    with standing(worker.engine()):  # or it might have ended before the word reaches it
        assert lifecycle.request_pause(run, "ann")
        time.sleep(2)
    return site.status(run, Run.Status.PAUSED)


@contextmanager
def standing(process: psutil.Process) -> Iterator[None]:
    """The process does nothing within the block."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@contextmanager
def little_memory(process: psutil.Process) -> Iterator[None]:
    """The process in a control group without any memory to spare: the kernel kills it at its next page."""
    group = Path("/sys/fs/cgroup/memory") / f"kdweb-{process.pid}"
    old = group.parent.exists()
    group = group if old else Path("/sys/fs/cgroup") / group.name
    group.mkdir()
    try:
        limit, swap = ("memory.limit_in_bytes", "") if old else ("memory.max", "memory.swap.max")
        (group / limit).write_text("65536")
        if swap and (group / swap).exists():
            (group / swap).write_text("0")
        (group / "cgroup.procs").write_text(str(process.pid))
        yield
    finally:
        until(lambda: not (group / "cgroup.procs").read_text().strip(), 20, "the group is empty")
        group.rmdir()


# --- What takes long enough to strike ---------------------------------------------------------------------
def long_to_judge(site: Site, images: int) -> Dataset:
    """The digits, with so many images to validate and to test on."""
    dataset = a_dataset("digits, long to judge")
    digits = load(site.digits.folder)
    with Writer(
        dataset.folder, kind="digits", classes=digits.meta.classes, channels=1, height=8, width=8
    ) as writer:
        for split, least in (("train", 0), ("val", images), ("test", images)):
            part = digits.split(split)
            index = np.arange(max(least, len(part))) % len(part)
            writer.add(split, part.images[index], part.labels[index])
        meta = writer.finish()
    Dataset.objects.filter(pk=dataset.pk).update(**described_by(meta.result()))
    return Dataset.objects.get(pk=dataset.pk)


WEIGHTS = """
import sys
from pathlib import Path
import torch
from worker.distill import models
from worker.distill.checkpoint import save_student
torch.manual_seed(1)
save_student(Path(sys.argv[1]), models.build("resnet8", num_classes=10, in_channels=1, image_size=8), 0)
"""


def distilled(site: Site, epochs: int = 4) -> Run:
    """A student of a teacher whose weights lie below the data folder; not submitted yet."""
    teacher = a_teacher(dataset=site.digits, weights="teachers/1.safetensors")
    folder = teacher.weights_path.parent
    python("-c", WEIGHTS, str(folder), env=site.env)
    (folder / "student.safetensors").rename(teacher.weights_path)
    objective = hinton().model_dump()
    return site.draft("student", epochs=epochs, purpose="distil", teacher=teacher, objective=objective)


@contextmanager
def endless(path: Path) -> Iterator[None]:
    """A FIFO in the file's place: whoever reads it waits for ever, as for a network drive that went away."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    os.mkfifo(path)
    try:
        yield
    finally:
        aside.replace(path)


# --- What must hold ---------------------------------------------------------------------------------------
def assert_as_undisturbed(site: Site, run: Run, *outcomes: str) -> None:
    """Its twin's result, every step and console line once, every file whole and known, nothing left over."""
    run = Run.objects.get(pk=run.pk)
    site.assert_same(run)
    assert site.outcomes(run) == list(outcomes)
    assert run.inexact == ""
    assert site.steps(run) == list(range(1, run.total_steps + 1))
    lines = list(LogLine.objects.filter(run=run).values_list("n", flat=True))
    assert sorted(lines) == list(range(1, len(lines) + 1))
    assert_tidy(run)


def assert_tidy(run: Run) -> None:
    """Every row has its file, whole; no file is half-written, and no checkpoint is there without a row."""
    rows = list(run.artifacts.all())
    assert all(sha256(row.full_path) == row.sha256 for row in rows)
    files = {path.name for path in run.folder.rglob("*") if path.is_file()}
    assert files == {row.full_path.name for row in rows}
