"""Checkpoints of a run: when one is due, what it holds, and how a run goes on from one."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from worker.distill import checkpoint, optim
from worker.distill.assemble import Run
from worker.distill.errors import Diverged
from worker.distill.events import Log, Reporter, Resumed
from worker.distill.exactness import circumstances, differences
from worker.distill.lessons import Lessons
from worker.distill.meter import Meter
from worker.distill.spec import SpecError

EPOCH_END = 2.0  # seconds at least between two at epochs' ends; a short epoch is soon redone
MID_EPOCH = 60.0  # seconds at least before one in the middle of an epoch, which may take hours
SHARE = 100  # and so many times what the last one took: at most a hundredth of the time goes into them


class Keeper:
    """Saves when it is time. Of several processes the leader alone does, by its own clock."""

    def __init__(self, run: Run, lessons: Lessons, meter: Meter, report: Reporter) -> None:
        self.run, self.lessons, self.meter, self.report = run, lessons, meter, report
        self._plan(cost=0.0)

    def _plan(self, cost: float) -> None:
        self.saved = time.monotonic()
        leads = self.run.group.leads
        self.due = self.saved + max(MID_EPOCH, SHARE * cost) if leads else math.inf

    def mid_epoch(self) -> None:
        """After a step: save if it is time. Not after an epoch's last one, whose validation is to come."""
        if time.monotonic() >= self.due and self.run.batch < self.run.steps:
            self.save()

    def epoch_end(self, last: bool) -> None:
        """After an epoch with its validation."""
        if last or time.monotonic() - self.saved >= EPOCH_END:
            self.save()

    def save(self) -> None:
        """At once. What was measured before a checkpoint is reported before it. Raises Diverged, OSError."""
        self.meter.flush(self.run.epoch)
        began = time.monotonic()
        save(self.run, self.lessons, self.report)
        self._plan(cost=time.monotonic() - began)


def identity(run: Run) -> dict[str, Any]:
    """What makes two runs the same; files may have moved in between."""
    asked = run.spec.model_dump(mode="json", exclude={"dataset", "output", "device", "cache", "processes"})
    for ref in (asked["student"], asked["teacher"] or {}, *asked["more_teachers"]):
        ref.pop("weights", None)
    return asked | {"data": run.data.meta.fingerprint}


def same(then: Any, now: Any) -> bool:
    """Whether two identities are of one run. What only one of them knows is an option of another version."""
    if isinstance(then, dict) and isinstance(now, dict):
        return all(same(then[name], now[name]) for name in then.keys() & now.keys())
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(same, then, now))
    return bool(then == now)


def save(run: Run, lessons: Lessons, report: Reporter) -> None:
    """Everything the rest of the run depends on. Its position is (epoch, batch). Raises Diverged, OSError."""
    if not run.group.leads:
        return
    trained = [p for settings in run.optimizer.param_groups for p in settings["params"]]
    size = optim.largest(trained)
    if not math.isfinite(size):  # a loss can be finite while its gradient is not
        raise Diverged("weights", size, run.step, run.optimizer.param_groups[0]["lr"])
    run.saved = run.step
    state = {
        "identity": identity(run),
        "circumstances": circumstances(run),
        "epoch": run.epoch,
        "batch": run.batch,
        "student": run.student.state_dict(),
        "methods": run.loss.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "ema": run.ema.state_dict() if run.ema is not None else None,
        "early_stop": run.early_stop.state_dict() if run.early_stop is not None else None,
        "best": run.best,
        "cached": lessons.cached,
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None,
    }
    report(checkpoint.save_resume(Path(run.spec.output), state, run.step))


def resume(run: Run, lessons: Lessons, report: Reporter) -> None:
    """Go back to where the output folder's newest whole checkpoint was, and say whether this is exact.

    Raises SpecError where the folder is another run's, or holds no checkpoint that is whole.
    """
    folder = Path(run.spec.output)
    folder.mkdir(parents=True, exist_ok=True)
    now = circumstances(run)  # of the code as it is now, whatever is installed while this runs
    state = checkpoint.load_resume(folder, report)
    if state is None:
        return
    if not same(state["identity"], identity(run)):
        fix = "Choose an empty folder, or remove the checkpoints in it."
        raise SpecError("output", run.spec.output, "the folder holds checkpoints of another run.", fix)
    _restore(run, state)
    why = differences(state.get("circumstances"), now, run.device) + lessons.resume(state["cached"])
    report(Resumed(step=run.step, exact=not why, why="; ".join(why)))
    report(Log(text=f"Resumed at step {run.step}."))


def _restore(run: Run, state: dict[str, Any]) -> None:
    run.epoch, run.batch = state["epoch"], state["batch"]
    run.saved = run.step
    run.student.load_state_dict(state["student"])
    run.loss.load_state_dict(state["methods"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    if run.ema is not None:
        run.ema.load_state_dict(state["ema"])
    if run.early_stop is not None:
        run.early_stop.load_state_dict(state["early_stop"])
    run.best = {name: tensor.to(run.device) for name, tensor in state["best"].items()}
    torch.set_rng_state(state["rng"])
    if state["rng_cuda"] is not None and run.device.type == "cuda":
        torch.cuda.set_rng_state(state["rng_cuda"], run.device)
