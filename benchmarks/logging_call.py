"""What logging costs the training process, and how much the recorder keeps up with.

`add` is called at every step: ≤ 2 µs a value. `flush` fetches and sends a block every 0.2 s, through a real
pipe to a reader that only reads. The recorder is a worker's: it parses the engine's lines, publishes frames
to Redis, writes chunks into the database; it keeps up where it takes 100,000 values a second or more.
Run: python benchmarks/logging_call.py [--steps 100000]
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import _databases

TENSORS = ("loss/total", "loss/task", "loss/kd", "loss/fitnet", "train/top1", "gradient norm")
PLAIN = {"lr": 0.1, "weight/kd": 0.9, "dial/temperature": 4.0, "weight/fitnet": 0.5}
VALUES = len(TENSORS) + len(PLAIN)
ROUNDS = 5
BUDGETS = {
    "add: µs a value": 2.0,
    "recorder: s for 100,000 values": 1.0,
}


class Pipe:
    """The engine's way out, read by a thread that keeps every line."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.file = os.fdopen(writing, "w", encoding="utf-8", buffering=1)
        self.lines: list[bytes] = []
        self.thread = threading.Thread(target=self._read, args=(reading,))
        self.thread.start()

    def _read(self, reading: int) -> None:
        with os.fdopen(reading, "rb") as file:
            self.lines = file.readlines()

    def __call__(self, event: Any) -> None:
        self.file.write(event.model_dump_json() + "\n")
        self.file.flush()

    def close(self) -> list[bytes]:
        self.file.close()
        self.thread.join()
        return self.lines


def logged(steps: int, rate: float) -> tuple[float, float, list[bytes]]:
    """µs a value of `add` and of `flush`, and what was said; `rate`: steps a second, so a block's size."""
    import torch

    from worker.distill.meter import MAX_STEPS, Meter

    torch.set_num_threads(1)
    pipe = Pipe()
    meter = Meter(pipe, total_steps=steps, epochs=1)
    block = max(1, min(MAX_STEPS, int(rate * 0.2)))
    given = [{name: torch.tensor(float(n)) for n, name in enumerate(TENSORS)} | PLAIN for _ in range(64)]
    adding = flushing = 0
    clock = time.perf_counter_ns
    for step in range(1, steps + 1):
        meter.first, meter.sent = False, time.monotonic()  # when to send is said here, not by the clock
        began = clock()
        meter.add(step, 0, 128, given[step % 64] | {"lr": 0.1 / step})
        adding += clock() - began
        if step % block == 0:
            began = clock()
            meter.flush(0)
            flushing += clock() - began
    meter.flush(0)
    values = steps * VALUES * 1000
    return adding / values, flushing / values, pipe.close()


def recorded(lines: list[bytes]) -> float:
    """Seconds for 100,000 values, from the line on the pipe to the database."""
    from experiments.recorder import Recorder
    from tests.experiments.make import a_running_run
    from worker.distill import events
    from worker.distill.events import Metrics

    record = Recorder(a_running_run())
    values, began = 0, time.perf_counter()
    for line in lines:
        event = events.parse(line)
        record.feed(event)
        if isinstance(event, Metrics):
            values += sum(map(len, event.values.values()))
        record.tick()
    assert record.close()
    return (time.perf_counter() - began) * 100_000 / values


def measure(home: Path) -> _databases.Numbers:
    steps = arguments().steps
    calls = [logged(steps // ROUNDS, 1000.0)[:2] for _ in range(ROUNDS)]
    seconds = statistics.median(recorded(logged(steps, 1000.0)[2]) for _ in range(3))
    return {
        "add: µs a value": statistics.median(add for add, _ in calls),
        "flush: µs a value, every 0.2 s": statistics.median(flush for _, flush in calls),
        "recorder: s for 100,000 values": seconds,
        "recorder: values a second": 100_000 / seconds,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    return parser.parse_args()


if __name__ == "__main__":
    arguments()
    raise SystemExit(_databases.main("logging_call", __file__, measure, BUDGETS))
