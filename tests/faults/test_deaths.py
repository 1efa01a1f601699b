"""Processes die, hang and are told to go, at every moment of a run's life; a run is never lost by it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from experiments import lifecycle, queue
from experiments.models import Dataset, Run
from experiments.models.catalogue import Readiness
from tests.experiments.make import a_dataset

from .moments import (
    EPOCHS,
    assert_as_undisturbed,
    assert_tidy,
    die,
    distilled,
    endless,
    freeze_at,
    freeze_in,
    little_memory,
    long_to_judge,
    standing,
)
from .processes import until
from .site import Site
from .workers import WorkerProcess

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

PROMISED = 60.0  # seconds from a death to training again
JUDGED = 40_000  # images: judging them takes seconds


# --- SIGKILL, phase by phase ------------------------------------------------------------------------------
def test_f01_sigkill_while_queued(fresh_site: Site) -> None:
    """the only worker dies with the message in hand and nothing claimed → another runs it, once."""
    first = fresh_site.worker("first").start()
    fresh_site.wait_for(first.pool_children, 30)
    for child in first.pool_children():
        child.suspend()
    run = fresh_site.start_run(epochs=2)
    fresh_site.wait_for(lambda: queue.waiting_messages(queue.RUNS) == 0, 30)
    assert Run.objects.get(pk=run.pk).status == "queued"
    die(fresh_site, first)
    second = fresh_site.worker("second").start()
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "succeeded")
    assert run.attempts.get().worker == second.node


def test_f02_sigkill_during_dataset_preparation(fresh_site: Site) -> None:
    """die with half a dataset written → it never shows; prepared anew, as whole as any."""
    worker = fresh_site.worker().start()
    dataset = a_dataset("half", status=Readiness.PREPARING, classes=[])
    halves = f".{dataset.folder.name}.preparing-*"
    queue.send_dataset(dataset)
    fresh_site.wait_for(worker.engines, 60)
    freeze_at(worker.engines(), lambda: any(dataset.folder.parent.glob(f"{halves}/*.npy")))
    assert Dataset.objects.get(pk=dataset.pk).status == "preparing"
    assert not dataset.folder.exists()
    die(fresh_site, worker)
    assert not dataset.folder.exists()
    worker.start()
    ready = Dataset.objects.filter(pk=dataset.pk, status=Readiness.READY)
    fresh_site.wait_for(ready.exists, 90)
    assert ready.get().fingerprint == fresh_site.digits.fingerprint
    assert not list(dataset.folder.parent.glob(halves))
    assert fresh_site.ended(fresh_site.start_run(dataset=ready.get(), epochs=1)).status == "succeeded"


def test_f03_sigkill_during_teacher_load(fresh_site: Site) -> None:
    """die while the teacher's weights are read → attempt 2 says why it is there, and ends as the twin."""
    worker = fresh_site.worker().start()
    run = distilled(fresh_site)
    with endless(run.teacher.weights_path):
        lifecycle.submit(run, "ann")
        fresh_site.wait_for(Run.objects.filter(pk=run.pk, phase__startswith="teacher").exists)
        freeze_in(fresh_site, run, worker.engine(), "load_weights")
        die(fresh_site, worker)
    worker.start()
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "lost", "succeeded")
    assert f"The worker of the last one, {worker.node}, went silent." in fresh_site.events(run)[2]


@pytest.mark.promise
def test_f04_sigkill_mid_epoch(fresh_site: Site) -> None:
    """die mid-epoch, another worker is idle → it trains on in ≤ 60 s from the last checkpoint, exactly."""
    first = fresh_site.worker("first").start()
    run = fresh_site.start_run(epochs=EPOCHS)
    fresh_site.running(fresh_site.resumable(run))
    with standing(first.engine()):
        second = fresh_site.worker("second").start()
        fresh_site.wait_for(second.engines, 60)
    last = run.artifacts.filter(kind="resume").latest("step").step
    die(fresh_site, first)
    struck = time.monotonic()
    fresh_site.wait_for(lambda: again(run), PROMISED)
    assert time.monotonic() - struck <= PROMISED
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "lost", "succeeded")
    assert run.attempts.get(number=2).from_step >= last
    said = fresh_site.events(run)
    assert f"Attempt 2 begins. The worker of the last one, {first.node}, went silent." in said
    assert any(text.startswith("Goes on from step") and text.endswith("exactly.") for text in said)


def again(run: Run) -> bool:
    return Run.objects.filter(pk=run.pk, fence=2, status__in=("running", "succeeded")).exists()


def test_f05_sigkill_during_validation(fresh_site: Site) -> None:
    """die while epoch 2 is validated → validated again; one point for it."""
    worker = fresh_site.worker().start()
    run = fresh_site.start_run(epochs=3, dataset=long_to_judge(fresh_site, JUDGED))
    per_epoch = fresh_site.resumable(run).epoch_steps
    fresh_site.running(run, step=2 * per_epoch - 1)
    freeze_in(fresh_site, run, worker.engine(), "validate")
    assert len(fresh_site.steps(run, "val/top1")) == 1
    die(fresh_site, worker)
    worker.start()
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "lost", "succeeded")
    assert run.attempts.get(number=2).from_step == per_epoch
    assert fresh_site.steps(run, "val/top1") == [per_epoch, 2 * per_epoch, 3 * per_epoch]


def goes_on_from_the_last_row(site: Site, worker: WorkerProcess, run: Run) -> None:
    last = run.artifacts.filter(kind="resume").latest("step").step
    worker.start()
    site.ended(run)
    assert_as_undisturbed(site, run, "lost", "succeeded")
    assert run.attempts.get(number=2).from_step == last


def test_f06_sigkill_between_write_and_rename_of_a_checkpoint(fresh_site: Site) -> None:
    """die with a checkpoint half written → the one before it is used, the half one is gone at the end."""
    worker = fresh_site.worker().start()
    run = fresh_site.resumable(fresh_site.start_run(epochs=EPOCHS))
    freeze_at([worker.engine()], lambda: any(run.folder.rglob(".writing-resume-*")))
    die(fresh_site, worker)
    assert list(run.folder.rglob(".writing-resume-*"))
    goes_on_from_the_last_row(fresh_site, worker, run)


def test_f07_sigkill_between_rename_and_row_of_a_checkpoint(fresh_site: Site) -> None:
    """die with a whole checkpoint that no row names → the one before it is used, no file without a row."""
    worker = fresh_site.worker().start()
    run = fresh_site.resumable(fresh_site.start_run(epochs=EPOCHS))
    fresh_site.running(run)

    def unknown() -> set[str]:
        known = {Path(path).name for path in run.artifacts.values_list("path", flat=True)}
        return {path.name for path in run.folder.rglob("resume-*.pt")} - known

    freeze_at([*worker.pool_children(), worker.engine()], lambda: bool(unknown()))
    die(fresh_site, worker)
    assert unknown()
    goes_on_from_the_last_row(fresh_site, worker, run)


def test_f08_sigkill_after_the_last_step(fresh_site: Site) -> None:
    """die while the trained student is measured → measured again, not trained again; finished once."""
    worker = fresh_site.worker().start()
    run = fresh_site.start_run(epochs=2, dataset=long_to_judge(fresh_site, JUDGED))
    measured = Run.objects.filter(pk=run.pk, phase__startswith="evaluation")
    fresh_site.wait_for(measured.exists)
    die(fresh_site, worker)
    assert not Run.objects.get(pk=run.pk).ended
    worker.start()
    run = fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "lost", "succeeded")
    assert run.attempts.get(number=2).from_step == run.total_steps
    assert fresh_site.events(run).count("Finished.") == 1


def test_f09_sigkill_of_the_pool_child_alone(fresh_site: Site) -> None:
    """the process that holds the task dies, its parent lives → lease, next attempt, the same result."""
    worker = fresh_site.worker().start()
    run = fresh_site.start_run(epochs=EPOCHS)
    fresh_site.running(fresh_site.resumable(run))
    engine = worker.engine()
    (child,) = worker.pool_children()
    child.kill()
    struck = time.monotonic()
    fresh_site.wait_for(lambda: not engine.is_running(), 20)
    fresh_site.wait_for(lambda: again(run), PROMISED)
    assert time.monotonic() - struck <= PROMISED
    fresh_site.ended(run)
    assert worker.alive
    assert_as_undisturbed(fresh_site, run, "lost", "succeeded")


# --- Told to go -------------------------------------------------------------------------------------------
def test_f10_sigterm_hands_back(fresh_site: Site) -> None:
    """SIGTERM mid-epoch, as a deployment does → a checkpoint of this very step ≤ 30 s, queued, resumed."""
    worker = fresh_site.worker().start()
    run = fresh_site.running(fresh_site.start_run(epochs=EPOCHS), step=15)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    fresh_site.status(run, "queued", seconds=30)
    assert time.monotonic() - began <= 30
    worker.process.wait(30)
    stopped_at = Run.objects.get(pk=run.pk).step
    assert run.artifacts.filter(kind="resume").latest("step").step == stopped_at
    worker.start()
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "handed back", "succeeded")
    assert run.attempts.get(number=2).from_step == stopped_at
    assert "Its worker lets go of it; the run goes back to the queue." in fresh_site.events(run)


@pytest.mark.parametrize("signals", [("TERM", "TERM"), ("QUIT",), ("INT",), ("INT", "INT")], ids="-".join)
def test_f11_other_ways_to_go(fresh_site: Site, signals: tuple[str, ...]) -> None:
    """SIGTERM twice, SIGQUIT, SIGINT once and twice → the worker and all below it end, nothing is spoilt."""
    worker = fresh_site.worker().start()
    run = fresh_site.start_run(epochs=EPOCHS)
    fresh_site.running(fresh_site.resumable(run))
    family = worker.family()
    for name in signals:
        worker.signal(getattr(signal, f"SIG{name}"))
        time.sleep(0.3)
    worker.process.wait(60)
    fresh_site.wait_for(lambda: not any(one.is_running() for one in family), 20)
    assert not Run.objects.get(pk=run.pk).ended
    worker.start()
    fresh_site.ended(run)
    first = fresh_site.outcomes(run)[0]
    assert first in ("handed back", "lost")
    assert_as_undisturbed(fresh_site, run, first, "succeeded")


# --- Frozen -----------------------------------------------------------------------------------------------
def test_f12_sigstop_and_late_return(fresh_site: Site) -> None:
    """frozen beyond lease and suspicion, another took over, then woken → it writes nothing and stops."""
    first = fresh_site.worker("first").start()
    run = fresh_site.start_run(epochs=EPOCHS)
    fresh_site.running(fresh_site.resumable(run))
    engine = first.engine()
    freeze_at(first.family(), fresh_site.sqlite.writable)  # SQLite's one lock must not be in its hands
    second = fresh_site.worker("second").start()
    fresh_site.wait_for(lambda: again(run), PROMISED)
    first.cont()
    fresh_site.wait_for(lambda: first.says("left alone."), 30)
    fresh_site.wait_for(lambda: not engine.is_running(), 20)
    run = fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "lost", "succeeded")
    assert run.attempts.get(number=2).worker == second.node
    assert first.alive
    later = fresh_site.ended(fresh_site.start_run("later", epochs=1))
    assert later.status == "succeeded"


# --- The engine alone -------------------------------------------------------------------------------------
def test_f13_out_of_memory_once(fresh_site: Site) -> None:
    """the kernel kills the engine for want of memory → the reason says so; tried again, exactly."""
    worker = fresh_site.worker().start()
    run = fresh_site.start_run(epochs=EPOCHS)
    fresh_site.running(fresh_site.resumable(run))
    out_of_memory(worker.engine())
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "crashed", "succeeded")
    assert "ran out of memory" in run.attempts.get(number=1).reason
    assert any("It is tried again" in text and "memory" in text for text in fresh_site.events(run))


def test_f13_out_of_memory_every_time(fresh_site: Site) -> None:
    """killed for want of memory twice at the same place → failed, with what to do; no third try.
    simulated: by SIGKILL, the kernel's own means."""
    worker = fresh_site.worker().start()
    run = distilled(fresh_site)
    with endless(run.teacher.weights_path):
        lifecycle.submit(run, "ann")
        for number in (1, 2):
            loading = Run.objects.filter(pk=run.pk, fence=number, phase__startswith="teacher")
            fresh_site.wait_for(loading.exists)
            worker.engine().kill()  # asleep in a read it asks for no page: this is what the kernel would send
        run = fresh_site.ended(run)
    assert run.status == "failed"
    assert "Two attempts ended in the same way" in run.reason
    assert "out of memory" in run.reason
    assert "smaller batch" in run.reason
    assert fresh_site.outcomes(run) == ["crashed", "crashed"]
    assert lifecycle.retry(run, "ann")
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "crashed", "crashed", "succeeded")


def out_of_memory(process: psutil.Process) -> None:
    """By the kernel, in a control group; where none may be made, by the signal that the kernel would send."""
    if os.access("/sys/fs/cgroup/memory", os.W_OK) or os.access("/sys/fs/cgroup/cgroup.procs", os.W_OK):
        with little_memory(process):
            process.wait(30)
    else:
        process.kill()


def test_f16_loss_not_a_number(fresh_site: Site) -> None:
    """a learning rate that grows until weights overflow → stops at that step; says term, step, rate, advice;
    the last good checkpoint is kept."""
    fresh_site.worker().start()
    training = {"learning_rate": 100, "weight_decay": 0.5, "warmup_epochs": 99, "momentum": 0.0}
    run = fresh_site.ended(fresh_site.start_run(epochs=100, training=training))
    assert run.status == "failed"
    assert fresh_site.outcomes(run) == ["failed"]
    kept = run.artifacts.filter(kind="resume").latest("step")
    assert "loss/ce became nan at step" in run.reason
    assert "learning rate" in run.reason
    assert f"the last good checkpoint is of step {kept.step}" in run.reason
    assert "Lower training.learning_rate" in run.reason
    assert kept.step <= run.step < run.total_steps / 2
    assert_tidy(run)


def test_f18_bus_error(fresh_site: Site) -> None:
    """the validation images' file is cut short while it is mapped → SIGBUS; named, tried again when whole."""
    worker = fresh_site.worker().start()
    dataset = long_to_judge(fresh_site, JUDGED)
    images = dataset.folder / "val_images.npy"
    run = fresh_site.resumable(fresh_site.start_run(epochs=4, dataset=dataset))
    whole = images.read_bytes()
    engine, (child,) = worker.engine(), worker.pool_children()
    freeze_in(fresh_site, run, engine, "validate")
    with standing(child):  # or it would try again before the file is whole
        os.truncate(images, 4096)
        engine.resume()
        until(lambda: engine.status() == psutil.STATUS_ZOMBIE, 60, "the engine has crashed")
        images.write_bytes(whole)
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "crashed", "succeeded")
    assert run.log.filter(text__contains="Bus error").exists()
    assert any("Bus error" in text or "bus error" in text for text in fresh_site.events(run))


# --- Hung -------------------------------------------------------------------------------------------------
HANG = 30  # seconds; the engine gives a sign of life every ten


def test_f19_hang_while_the_teacher_is_read(fresh_site: Site) -> None:
    """the teacher's weights never come → its stack in the console, killed, tried again; then they come."""
    worker = fresh_site.worker(KDWEB_HANG_SECONDS=str(HANG)).start()
    run = distilled(fresh_site)
    with endless(run.teacher.weights_path):
        lifecycle.submit(run, "ann")
        fresh_site.wait_for(Run.objects.filter(pk=run.pk, phase__startswith="teacher").exists)
        engine = worker.engine()
        fresh_site.wait_for(lambda: not engine.is_running(), HANG + 45)
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "hung", "succeeded")
    assert run.log.filter(text__contains=" in load_weights").exists()
    assert f"no sign of life for {HANG} s" in run.attempts.get(number=1).reason
    assert worker.alive


def test_f19_engine_stopped(fresh_site: Site) -> None:
    """SIGSTOP of the engine alone → killed by the watchdog, tried again from its checkpoint."""
    worker = fresh_site.worker(KDWEB_HANG_SECONDS=str(HANG)).start()
    run = fresh_site.start_run(epochs=EPOCHS)
    fresh_site.running(fresh_site.resumable(run))
    engine = worker.engine()
    engine.suspend()
    fresh_site.wait_for(lambda: not engine.is_running(), HANG + 45)
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "hung", "succeeded")
    assert f"no sign of life for {HANG} s" in run.attempts.get(number=1).reason
    assert run.log.filter(text__contains="Where the engine stands").exists()
