"""Devices fail, change, or run out of memory; sweeps are many, or none."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from django.db.models.functions import Now

from experiments import lifecycle, queue, runspec
from experiments.models import Artifact, Pulse, Run, Worker
from worker.distill.events import Failed, Log, Metrics
from worker.supervisor import Engine

from .moments import paused
from .processes import ROOT, spawn, until
from .site import Site
from .workers import WorkerProcess

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

EPOCHS = 30
# An interpreter that runs `serve` with a convolution that fails: what is simulated is one line of torch's.
ENGINE = """
import runpy, sys
import torch

real, calls = torch.nn.functional.conv2d, 0


def conv2d(input, *rest, **more):
    global calls
    if torch.is_grad_enabled() and input.shape[0] == {batch}:
        calls += 1
        if calls > {after}:
            raise {error}
    return real(input, *rest, **more)


torch.nn.functional.conv2d = torch.conv2d = conv2d
sys.argv[0] = "worker.distill"
sys.path.insert(0, {root!r})
runpy.run_module("worker.distill", run_name="__main__", alter_sys=True)
"""
# The worker's own interpreter stays what it is; those it starts are the stand-in.
STAND_IN = """
import sys
if "celery" in sys.orig_argv:
    sys.executable = {launcher!r}
"""
LAUNCHER = """#!/bin/sh
case "$*" in *serve*) shift 2; exec {python} {engine} "$@";; *) exec {python} "$@";; esac
"""
OUT_OF_MEMORY = 'torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")'
LOST = 'RuntimeError("CUDA error: an illegal memory access was encountered")'


def broken(folder: Path, error: str, batch: int, after: int) -> dict[str, str]:
    """The environment of a worker whose engines meet `error` in a convolution over `batch` samples, after
    so many that went well."""
    engine, launcher = folder / "engine.py", folder / "python"
    engine.write_text(ENGINE.format(error=error, batch=batch, after=after, root=str(ROOT)))
    launcher.write_text(LAUNCHER.format(python=sys.executable, engine=engine))
    launcher.chmod(0o755)
    (folder / "sitecustomize.py").write_text(STAND_IN.format(launcher=str(launcher)))
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("after", [0, 2000], ids=["at the start", "late"])
def test_f14_out_of_memory_on_the_device(fresh_site: Site, tmp_path: Path, after: int) -> None:
    """CUDA is out of memory, in the first step or late → the run fails and says which batch size to lower to
    what; other runs of the worker go on. simulated: torch's error is raised by the engine's convolution."""
    site = fresh_site
    site.worker(**broken(tmp_path, OUT_OF_MEMORY, batch=61, after=after)).start()
    large = site.start_run("too large", epochs=EPOCHS, training={"batch_size": 61})
    small = site.start_run("small enough", epochs=3)
    large = site.ended(large)
    assert large.status == "failed"
    assert "batch of 61 does not fit" in large.reason
    assert "Lower training.batch_size: set it to 30" in large.reason
    assert (large.step > 0) == bool(after)
    assert site.outcomes(large) == ["failed"]
    site.ended(small)
    site.assert_same(small)
    assert not Worker.objects.exclude(trouble="").exists()


def test_f15_device_lost(fresh_site: Site, tmp_path: Path) -> None:
    """the device fails in mid-run → its worker leaves rotation and says why, the run goes on on another one
    and ends as its twin; the broken one takes nothing until it is started again. simulated: torch's error is
    raised by the engine's convolution."""
    site = fresh_site
    bad = site.worker("bad", **broken(tmp_path, LOST, batch=128, after=1500)).start().announced()
    run = site.start_run("moves", epochs=EPOCHS)
    site.running(run)
    site.worker("good").start()
    site.ended(run)
    assert site.outcomes(run) == ["crashed", "succeeded"]
    assert list(run.attempts.values_list("worker", flat=True)) == ["bad@test", "good@test"]
    assert "The device failed: CUDA error" in run.attempts.get(number=1).reason
    assert "The device failed: CUDA error" in Worker.objects.get(name="bad@test").trouble
    site.assert_same(run)
    for n in range(3):
        following = site.ended(site.start_run(f"after it {n}", epochs=1))
        assert following.attempts.get().worker == "good@test"
    assert bad.alive


def test_f17_gradients_overflow_at_any_scale(tmp_path: Path, site: Site) -> None:
    """fp16, and every gradient overflows → skipped steps are said, then the run ends with step, learning rate
    and what to do, not after hours. simulated: the gradient is made infinite in the engine."""
    engine = tmp_path / "engine.py"
    engine.write_text(OVERFLOW.format(root=str(ROOT)))
    run = site.draft("overflows", epochs=EPOCHS, training={"precision": "fp16"})
    spec = engine_spec(run, tmp_path)
    child = Engine([sys.executable, str(engine), "serve"])
    child.start("train", spec)
    said: list[Any] = []
    try:
        while not child.done:
            said += child.read(0.2)
    finally:
        child.close()
    assert isinstance(child.ending, Failed), child.reason()
    assert child.ending.code == "nan"
    assert "overflow in fp16 at any scale" in child.ending.message
    assert "learning rate" in child.ending.message
    assert child.ending.fix
    steps = max(max(event.steps) for event in said if isinstance(event, Metrics))
    assert steps < 10 * EPOCHS, "it went on to the end"
    assert not any(isinstance(event, Log) and event.level == "error" for event in said)


OVERFLOW = """
import runpy, sys
import torch

real = torch.Tensor.backward


def backward(self, *rest, **more):
    return real(self * float("inf"), *rest, **more)


torch.Tensor.backward = backward
sys.argv[0] = "worker.distill"
sys.path.insert(0, {root!r})
runpy.run_module("worker.distill", run_name="__main__", alter_sys=True)
"""


def engine_spec(run: Run, folder: Path) -> dict[str, Any]:
    return runspec.build(run).model_dump() | {"output": str(folder / "output"), "cache": None}


# --- Another machine --------------------------------------------------------------------------------------
def test_f53_resumed_under_another_torch(site: Site) -> None:
    """a checkpoint of another torch → the run goes on, and says on its page and in its history that it is not
    exact, with both versions. simulated: what the checkpoint says it was made with."""
    goes_on_inexactly(site, "torch", "1.13.1", f"torch 1.13.1 → {torch.__version__}")


def test_f54_resumed_on_another_device(site: Site) -> None:
    """a checkpoint of another device → the run goes on, and says on its page and in its history that it is
    not exact, with both devices. simulated: what the checkpoint says it was made on."""
    goes_on_inexactly(site, "device", "NVIDIA A100", "another device: NVIDIA A100 →")


def goes_on_inexactly(site: Site, what: str, then: str, words: str) -> None:
    run = site.start_run(f"other {what}", epochs=EPOCHS)
    worker = site.processes[0]
    assert isinstance(worker, WorkerProcess)
    paused(site, run, worker, checkpoints=1)
    step = made_elsewhere(run, what, then)
    assert lifecycle.resume(run, "ann")
    run = site.ended(run)
    assert run.status == "succeeded", run.reason
    assert words in run.inexact
    assert run.attempts.get(number=2).from_step == step
    said = [text for text in site.events(run) if f"Goes on from step {step}, not exactly: " in text]
    assert len(said) == 1
    assert words in said[0]
    assert site.steps(run) == list(range(1, run.total_steps + 1))


def made_elsewhere(run: Run, what: str, value: str) -> int:
    """Rewrites the newest checkpoint as another machine would have written it; its step."""
    artifact = run.artifacts.filter(kind=Artifact.Kind.RESUME).order_by("-step")[0]
    path = artifact.full_path
    state = torch.load(path, weights_only=True)
    state["circumstances"][what] = value
    aside = path.with_name("aside")
    torch.save(state, aside)
    digest = hashlib.sha256(aside.read_bytes()).hexdigest()
    target = path.with_name(f"{path.name.split('.')[0]}.{digest}.pt")
    aside.rename(target)
    path.unlink()
    artifact.path = str(Path(artifact.path).with_name(target.name))
    artifact.sha256, artifact.bytes = digest, target.stat().st_size
    artifact.save()
    return int(artifact.step)


# --- Many sweeps, and none --------------------------------------------------------------------------------
SWEEPS = """
import sys, time
from pathlib import Path
from experiments.models import Run
from experiments.sweep import sweep
Run.objects.exists()
print("ready", flush=True)
go = Path({go!r})
while not go.exists():
    time.sleep(0.01)
begin = float(go.read_text())
for n in range({rounds}):
    time.sleep(max(0, begin + 5 * n - time.time()))
    print("round", n, int(sweep("{name}")), flush=True)
"""
ROUNDS = 4


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_f55_many_sweeps_at_once(make_site: Callable[..., Site], database: str) -> None:
    """four processes sweep at the very same moment, four times → one of them acts each time, and the run
    whose worker is gone is suspected and handed on once."""
    site = make_site(database)
    run = site.draft("left behind")
    Run.objects.filter(pk=run.pk).update(
        status="running", fence=1, lease_owner="gone@test", lease_expires=Now() - timedelta(minutes=1)
    )
    Pulse.objects.create(name="sweep", at=Now() - timedelta(minutes=1))
    files = [site.home / "logs" / f"sweep-{n}.log" for n in range(4)]
    go = site.home / "go"
    children = [
        spawn([sys.executable, "manage.py", "shell", "-v0", "-c", code(go, n)], file, site.env)
        for n, file in enumerate(files)
    ]
    until(lambda: all("ready" in file.read_text() for file in files), 120, "all four are ready")
    aside = go.with_suffix(".aside")
    aside.write_text(str(time.time() + 1))
    aside.rename(go)
    for child in children:
        assert child.wait(timeout=120) == 0, "".join(file.read_text() for file in files)
    said = "".join(file.read_text() for file in files)
    for n in range(ROUNDS):
        assert said.count(f"round {n} 1") == 1, said
        assert said.count(f"round {n} 0") == 3, said
    assert Run.objects.get(pk=run.pk).silent_since is not None
    assert queue.waiting_messages(queue.RUNS) == 1


def code(go: Path, n: int) -> str:
    return SWEEPS.format(go=str(go), rounds=ROUNDS, name=f"sweeper {n}")


def test_f56_nobody_has_swept_for_a_day(fresh_site: Site) -> None:
    """no sweep for a day, the broker emptied, a run queued and another left by a dead worker → health alarms,
    the first worker that starts has both going. simulated: the day is written into the rows."""
    site = fresh_site
    day = timedelta(days=1)
    queued, left = site.start_run("queued", epochs=2), site.draft("left behind", epochs=2)
    Run.objects.filter(pk=queued.pk).update(queued=Now() - day)
    Run.objects.filter(pk=left.pk).update(
        status="running", fence=1, lease_owner="gone@test", lease_expires=Now() - day
    )
    left.attempts.create(number=1, worker="gone@test")
    Pulse.objects.update_or_create(name="sweep", defaults={"at": Now() - day})
    site.broker.flush()
    assert alarm(site)["sweep"]["state"] == "broken"
    site.worker().start()
    for run in (queued, left):
        site.ended(run)
        site.assert_same(run)
    assert site.outcomes(left) == ["lost", "succeeded"]
    assert alarm(site)["sweep"]["state"] == "fine"


def alarm(site: Site) -> dict[str, Any]:
    """What health says, asked of a process that does not sweep itself."""
    said = site.manage("shell", "-v0", "-c", HEALTH)
    return dict(json.loads(said.splitlines()[-1])["checks"])


HEALTH = """
from django.test import Client
print(Client().get("/health.json", headers={"host": "localhost"}).content.decode())
"""
