"""Signs of life. Who watches the engine takes it for hung when nothing is heard of it for minutes.

Work that goes on asks should_stop() at every batch: that is a sign. A download, a checkpoint of many
gigabytes, the hashing of a large file ask nothing, and move bytes: that is one too. A call that never comes
back does neither.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.distill.events import Alive, Reporter

EVERY = 10.0  # seconds between signs at least
MOVED = 1 << 16  # bytes within that time; what one sign itself writes and reads is far less


class Signs:
    """Called wherever the work passes by: at most one event every so often."""

    def __init__(self, report: Reporter) -> None:
        self.report, self.due = report, time.monotonic() + EVERY

    def __call__(self) -> None:
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + EVERY
            self.report(Alive())


@contextmanager
def while_bytes_move(sign: Callable[[], None]) -> Iterator[None]:
    """Within the block `sign` is called too when this process has read or written something (on Linux)."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(sign, over), name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(sign: Callable[[], None], over: threading.Event) -> None:
    before = bytes_moved()
    while before is not None and not over.wait(EVERY):
        now = bytes_moved() or before
        if now - before >= MOVED:
            sign()
        before = now


def bytes_moved() -> int | None:
    """By read and write calls of all threads since the process began; None where the system does not tell."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            counts = dict(line.split(": ") for line in file)
    except OSError:
        return None
    return int(counts["rchar"]) + int(counts["wchar"])
