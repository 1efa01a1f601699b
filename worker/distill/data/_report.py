"""What a preparation says on its way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

from worker.distill.events import Log, Progress, Reporter

T = TypeVar("T")
INTERVAL = 0.5  # seconds between two reports of progress


def log(report: Reporter, text: str, level: Literal["info", "warning"] = "info") -> None:
    report(Log(level=level, text=text))


def tracked(items: Sequence[T], report: Reporter) -> Iterator[T]:
    """The items one by one, reporting how many are done (as steps of a single epoch)."""
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= INTERVAL:
            last, rate = now, done / (now - start)
            eta = (len(items) - done) / rate if rate else None
            report(Progress(step=done, total_steps=len(items), epoch=1, epochs=1, rate=rate, eta=eta))
        yield item
    report(Progress(step=len(items), total_steps=len(items), epoch=1, epochs=1))
