"""From a step of a training to the browsers of 200 viewers, at 1,000 points a second.

One uvicorn, as `manage.py up` runs it; 200 connections from one client process; a training at 100 steps of 10
values a second goes through the real meter and the real recorder. A point's delay runs from the step's own
clock to the moment its event has arrived at a viewer: p50 ≤ 200 ms, p99 ≤ 300 ms, ≤ 10 % of a core.
Run: python benchmarks/live.py [--viewers 200] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _databases
import _site as here
import numpy as np

SERIES = 10
RATE = 100.0  # steps a second
CONNECTING = 5.0  # seconds that 200 viewers are given
BEGIN, END = "it begins", "it has ended"  # phases: between them is measured
TRAIN = "KDWEB_BENCHMARK_TRAINS"
BUDGETS = {
    "step → received: p50 ms": 200.0,
    "step → received: p99 ms": 300.0,
    "points missed": 0.0001,
    "uvicorn: % of a core": 10.0,
    "uvicorn: MB resident": 120.0,
}


# --- The training: a process of its own --------------------------------------------------------------------
def train(run_id: int, seconds: float) -> None:
    """Steps at an even pace; what the meter says is recorded as a worker does."""
    import torch

    from experiments.models import Run
    from experiments.recorder import Recorder
    from worker.distill import events
    from worker.distill.events import Phase
    from worker.distill.meter import Meter

    record = Recorder(Run.objects.get(pk=run_id))
    meter = Meter(
        lambda event: record.feed(events.parse(event.model_dump_json())), total_steps=10**6, epochs=1
    )
    values = {f"loss/{n}": torch.tensor(float(n)) for n in range(SERIES - 1)}
    record.feed(Phase(name=BEGIN))
    began = time.monotonic()
    for step in range(1, int(seconds * RATE) + 1):
        meter.add(step, 0, 128, values | {"lr": 1 / step})
        record.tick()
        time.sleep(max(0.0, began + step / RATE - time.monotonic()))
    meter.flush(0)
    record.feed(Phase(name=END))
    assert record.close()


# --- The viewers --------------------------------------------------------------------------------------------
class Viewers:
    """Connections that read events and note how old each point is. An event's text is parsed once for all."""

    def __init__(self, run_id: int, cookie: str) -> None:
        self.run_id, self.cookie = run_id, cookie
        self.port = self.connections = 0
        self.spent: Callable[[], float] = lambda: 0.0  # the server's processor seconds so far
        self.marks: dict[str, tuple[float, float]] = {}  # phase → when it was first seen, what was spent
        self.parsed: dict[bytes, tuple[Any, str]] = {}
        self.delays: list[Any] = []
        self.points: list[int] = []

    async def watch(self) -> None:
        """As an EventSource: told to reload, or cut off, it comes back with the last event's id."""
        seen, phase, last = 0, "", "0-0"
        while phase != END:
            reader, writer = await self.connect(last)
            while (
                phase != END and (line := await reader.readline()) and not line.startswith(b"event: reload")
            ):
                if line.startswith(b"id:"):
                    last = line[3:].decode().strip()
                if line.startswith(b"data:"):
                    walls, phase = self.read(line)
                    self.delays.append(time.time() - walls)
                    seen += len(walls)
            writer.close()
            self.connections += 1
        self.points.append(seen)

    async def connect(self, last: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        request = (
            f"GET /runs/{self.run_id}/live HTTP/1.0\r\nHost: localhost\r\nLast-Event-ID: {last}\r\n"
            f"Cookie: sessionid={self.cookie}\r\nAccept: text/event-stream\r\n\r\n"
        )  # 1.0: the events as they are, without the lengths of chunks between them
        writer.write(request.encode())
        return reader, writer

    def read(self, line: bytes) -> tuple[Any, str]:
        """When its points were measured; the phase it tells of."""
        if line not in self.parsed:
            frame = json.loads(line[5:])["frame"]
            points, phase = frame.get("points", {}), frame.get("phase", "")
            measured = [points[name] for name in points if name.startswith(("loss/", "lr"))]
            self.parsed[line] = np.array([wall for one in measured for wall in one["w"]]), phase
            self.marks.setdefault(phase, (time.monotonic(), self.spent()))
        return self.parsed[line]

    def load(self) -> float:
        """Of the server while it was measured, in percent of a core."""
        (began, before), (ended, after) = self.marks[BEGIN], self.marks[END]
        return 100 * (after - before) / (ended - began)


async def watched(viewers: Viewers, count: int) -> None:
    async with asyncio.timeout(180), asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(viewers.watch())


# --- The site -----------------------------------------------------------------------------------------------
@contextmanager
def web(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "uvicorn", "kdweb.asgi:application", "--port", str(port)]
    with (home / "web.log").open("ab") as log:
        process = subprocess.Popen(
            [*argv, "--log-level", "warning", "--timeout-graceful-shutdown", "1"],
            cwd=here.ROOT,
            stdout=log,
            stderr=log,
        )
        try:
            here.wait_for(lambda: _answers(port), 60)
            yield process, port
        finally:
            process.terminate()
            process.wait(timeout=30)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
    except OSError:
        return False
    return True


def measure(home: Path) -> _databases.Numbers:
    import psutil
    from django.contrib.auth.models import User
    from django.test import Client

    from tests.experiments.make import a_running_run

    words = arguments()
    run = a_running_run()
    client = Client()
    client.force_login(User.objects.create_superuser("bench", password="bench"))
    viewers = Viewers(run.pk, client.cookies["sessionid"].value)
    with web(home) as (process, viewers.port):
        uvicorn = psutil.Process(process.pid)
        idle = uvicorn.memory_info().rss / 1e6
        viewers.spent = lambda: sum(uvicorn.cpu_times()[:2])
        with _training(run.pk):
            asyncio.run(watched(viewers, words.viewers))
        resident = uvicorn.memory_info().rss / 1e6
    delays = np.concatenate(viewers.delays) * 1000
    expected = int(words.seconds * RATE) * SERIES
    return {
        "step → received: p50 ms": float(np.percentile(delays, 50)),
        "step → received: p99 ms": float(np.percentile(delays, 99)),
        "step → received: slowest ms": float(delays.max()),
        "connections a viewer": viewers.connections / words.viewers,
        "points missed": float(expected * words.viewers - sum(viewers.points)),
        "uvicorn: % of a core": viewers.load(),
        "uvicorn: MB resident before": idle,
        "uvicorn: MB resident": resident,
    }


@contextmanager
def _training(run_id: int) -> Iterator[None]:
    argv = [sys.executable, __file__, *sys.argv[1:]]
    said = {TRAIN: str(run_id), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(argv, env=os.environ | said)
    try:
        yield
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    return parser.parse_args()


if __name__ == "__main__":
    words = arguments()
    if run_id := os.environ.get(TRAIN):
        import django

        django.setup()
        time.sleep(CONNECTING)
        train(int(run_id), words.seconds)
        raise SystemExit(0)
    raise SystemExit(_databases.main("live", __file__, measure, BUDGETS))
