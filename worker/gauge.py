"""What the machine does while an attempt works, as series of the run like any other: `system/…`.

Their step is the seconds since the run's first start, by the database's clock when the attempt was claimed
and by a clock that nobody sets from then on; so the curves go on over pauses and attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.lifecycle import TTL
from experiments.measurements import SYSTEM
from experiments.models import Run
from worker import machine
from worker.distill.events import Event, Metrics

EVERY = 5.0  # seconds
GPU = ("utilisation", "memory", "temperature", "power")


class Gauge:
    """`tick` it often; it feeds a block of points every five seconds."""

    def __init__(self, run: Run, pid: int, data: Path, feed: Callable[[Event], None]) -> None:
        """Of a run that was just claimed, whose engine is the process `pid`."""
        assert run.started is not None
        assert run.lease_expires is not None
        self.before = (run.lease_expires - TTL - run.started).total_seconds()
        self.began = time.monotonic()
        self.pid, self.data, self.feed = pid, data, feed
        self.due = self.began
        machine.usage(data)  # a processor's load is said of the time since the last look

    def tick(self) -> None:
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + EVERY
        values = {name: [value] for name, value in self._values() if value is not None}
        step = max(0, int(self.before + now - self.began))
        self.feed(Metrics(steps=[step], wall=[time.time()], values=values))

    def _values(self) -> Iterator[tuple[str, float | None]]:
        usage = machine.usage(self.data)
        yield f"{SYSTEM}cpu", usage["cpu"]
        yield f"{SYSTEM}memory", usage["memory_used"]
        yield f"{SYSTEM}engine_memory", machine.memory_of(self.pid)
        for number, gpu in enumerate(usage["gpus"]):
            for name in GPU:
                yield f"{SYSTEM}gpu{number}/{name}", gpu["memory_used" if name == "memory" else name]
