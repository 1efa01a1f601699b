"""Each step's values, kept on the device and handed on in blocks: no synchronisation in the hot loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.distill.errors import Diverged
from worker.distill.events import Metrics, Progress, Reporter

INTERVAL = 0.2  # seconds between blocks
MAX_STEPS = 1024  # in a block


class Meter:
    """Collects each step's values. A block is sent every 0.2 s, the first one after the first step.

    Tensors are fetched together, a block at a time. Plain numbers that stay the same are sent once a block.
    overflowing: series that need not be finite. look: told step and learning rate after each block.
    """

    def __init__(
        self,
        report: Reporter,
        *,
        total_steps: int,
        epochs: int,
        overflowing: Sequence[str] = (),
        look: Callable[[int, float], None] = lambda step, rate: None,
    ) -> None:
        self.report, self.look = report, look
        self.total_steps, self.epochs, self.overflowing = total_steps, epochs, overflowing
        self.names: list[str] = []  # of the tensors, in the order of their rows
        self.rows: list[Tensor] = []  # each (len(names),), on the device
        self.plain: dict[str, list[float]] = {}
        self.steps: list[int] = []
        self.wall: list[float] = []
        self.samples = self.steps_done = 0
        self.began = self.sent = time.monotonic()
        self.first = True

    def add(self, step: int, epoch: int, samples: int, values: dict[str, Tensor | float]) -> None:
        """One step's values; "lr" is one of them. Raises Diverged within a block of a bad one."""
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        if self.names != list(tensors):  # another part of the run has other terms
            self.flush(epoch)
            self.names, self.plain = list(tensors), {}
        self.rows.append(torch.stack([value.detach().float() for value in tensors.values()]))
        for name, value in values.items():
            if not isinstance(value, Tensor):
                self.plain.setdefault(name, []).append(value)
        self.steps.append(step)
        self.wall.append(time.time())
        self.samples += samples
        if self.first or len(self.rows) >= MAX_STEPS or time.monotonic() - self.sent >= INTERVAL:
            self.flush(epoch)

    def flush(self, epoch: int) -> None:
        """Fetch and send what has been collected: one synchronisation."""
        if not self.rows:
            return
        columns = dict(zip(self.names, torch.stack(self.rows).T.tolist(), strict=True))
        bad = self._first_bad(columns)
        keep = len(self.steps) if bad is None else bad[0] + 1
        moving = {name: column for name, column in self.plain.items() if len(set(column)) > 1 or name == "lr"}
        values = {name: column[:keep] for name, column in (columns | moving).items()}
        self.report(Metrics(steps=self.steps[:keep], wall=self.wall[:keep], values=values))
        if bad is not None:
            row, name, value = bad
            raise Diverged(name, value, self.steps[row], self.plain["lr"][row])
        self.look(self.steps[-1], self.plain["lr"][-1])
        self._progress(epoch, {name: c[-1] for name, c in self.plain.items() if name not in moving})
        self.rows, self.plain, self.steps, self.wall, self.samples = [], {}, [], [], 0

    def _progress(self, epoch: int, constants: dict[str, float]) -> None:
        now, step = time.monotonic(), self.steps[-1]
        self.steps_done += len(self.steps)
        rate = None if self.first else self.samples / max(now - self.sent, 1e-9)
        # The whole session's pace, validation included: it is what the rest will take too.
        eta = (self.total_steps - step) * (now - self.began) / self.steps_done
        if block := constants | ({} if rate is None else {"throughput": rate}):
            self.point(step, block)
        self.report(
            Progress(
                step=step,
                total_steps=self.total_steps,
                epoch=epoch + 1,
                epochs=self.epochs,
                rate=rate,
                eta=eta,
            )
        )
        self.sent, self.first = now, False

    def point(self, step: int, values: dict[str, float]) -> None:
        """Values that are not measured at every step."""
        block = {name: [value] for name, value in values.items()}
        self.report(Metrics(steps=[step], wall=[time.time()], values=block))

    def _first_bad(self, columns: dict[str, list[float]]) -> tuple[int, str, float] | None:
        """(row, series, value) of the first value that is not finite; a term before the total it spoils."""
        bad = [
            (row, name == "loss/total", name, value)
            for name, column in columns.items()
            for row, value in enumerate(column)
            if not math.isfinite(value) and name not in self.overflowing
        ]
        if not bad:
            return None
        row, _, name, value = min(bad, key=lambda item: item[:2])
        return row, name, value


class Muted(Meter):
    """Of a follower. The leader measures, and says what goes wrong: a follower that ended of itself because
    of what it saw first would take the leader with it, and the reason would be lost.
    """

    def add(self, step: int, epoch: int, samples: int, values: dict[str, Tensor | float]) -> None:
        """Nothing."""

    def flush(self, epoch: int) -> None:
        """Nothing."""

    def point(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""
