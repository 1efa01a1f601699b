"""The curves of a run with 10 series × 1,000,000 steps, as its page asks for them: ≤ 100 ms, ≤ 200 kB.

Through Django's whole request path, warm, compressed as a browser takes it. A spike of one step is planted in
each series and has to be in every answer, from the whole run down to a window of a few steps. For comparison
one such series is kept as a plain table, a row a point, and asked for the same envelope in SQL.
Run: python benchmarks/curves.py [--points 1000000]
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from pathlib import Path
from typing import Any

import _databases
import numpy as np

SERIES = 10
WIDTH = 1_000
ROUNDS = 15
SPIKE = 50.0
BLOCK = 100_000
BUDGETS = {"page: server ms": 100.0, "page: kB on the wire": 200.0, "views without the spike": 0.0001}


def columns(points: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    step = np.arange(1, points + 1)
    return step, 1.7e9 + np.cumsum(rng.normal(0.01, 0.001, points))


def values(step: Any, number: int) -> Any:
    """A loss as float32 gives it: it falls, with noise in every digit, and one step where it does not."""
    rng = np.random.default_rng(number)
    found = np.exp(-step / (0.3 * len(step))) + rng.normal(0, 0.02, len(step))
    found[spike_of(len(step), number) - 1] = SPIKE
    return found.astype(np.float32).astype(np.float64)


def spike_of(points: int, number: int) -> int:
    return (654_321 + 31_337 * number) % points + 1


def filled(points: int) -> Any:
    from experiments import metric_store
    from experiments.metric_store import Points
    from tests.experiments.make import a_running_run

    run = a_running_run()
    step, wall = columns(points)
    for number in range(SERIES):
        whole = Points(step, values(step, number), wall)
        for begin in range(0, points, BLOCK):
            block = whole.take(slice(begin, begin + BLOCK))
            metric_store.append(run.pk, run.fence, {f"loss/{number}": block})
    return run


class Browser:
    """Asks as one does, in this process: what is measured is the server's time."""

    def __init__(self) -> None:
        from django.contrib.auth.models import User
        from django.test import Client

        self.client = Client(headers={"host": "localhost", "accept-encoding": "gzip"})
        self.client.force_login(User.objects.create_superuser("bench", password="bench"))

    def ask(self, path: str) -> tuple[float, int, Any]:
        """Milliseconds, bytes on the wire, the answer."""
        began = time.perf_counter()
        response = self.client.get(path)
        took = 1000 * (time.perf_counter() - began)
        assert response.status_code == 200, response.content
        packed = response.headers.get("Content-Encoding") == "gzip"  # a window of a few points is not
        text = gzip.decompress(response.content) if packed else response.content
        return took, len(response.content), json.loads(text)


def blind(browser: Browser, run: Any, points: int) -> int:
    """How many views do not show the spike they contain."""
    missed = 0
    for number in range(SERIES):
        spike = spike_of(points, number)
        for window in (points, points // 3, 100_000, 10_000, 1_000, 50, 1):
            first, last = max(1, spike - window // 2), min(points, spike + window // 2)
            path = f"/api/runs/{run.pk}/series?names=loss/{number}&first={first}&last={last}&width=300"
            curve = browser.ask(path)[2]["series"][f"loss/{number}"]
            at = curve["s"].index(spike) if spike in curve["s"] else None
            missed += at is None or curve["v"][at] != SPIKE
    return missed


def plain_table(points: int) -> tuple[float, float]:
    """A row a point: milliseconds for one series' envelope in SQL, and bytes a point."""
    from django.db import connection

    step, wall = columns(points)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE plain (series integer, step bigint, value double precision, wall double precision, "
            "PRIMARY KEY (series, step))"
        )
        rows = list(zip(step.tolist(), values(step, 0).tolist(), wall.tolist(), strict=True))
        for begin in range(0, points, 10_000):
            marks = [(1, *row) for row in rows[begin : begin + 10_000]]
            cursor.executemany("INSERT INTO plain VALUES (%s, %s, %s, %s)", marks)
        size = _size(cursor) / points
        question = (
            "SELECT step / %s, min(value), max(value) FROM plain "
            "WHERE series = 1 GROUP BY step / %s ORDER BY 1"
        )
        took = []
        for _ in range(3):
            began = time.perf_counter()
            cursor.execute(question, [points // WIDTH, points // WIDTH])
            cursor.fetchall()
            took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took), size


def _size(cursor: Any) -> int:
    if cursor.db.vendor == "sqlite":
        cursor.execute("SELECT sum(pgsize) FROM dbstat WHERE name IN ('plain', 'sqlite_autoindex_plain_1')")
    else:
        cursor.execute("SELECT pg_total_relation_size('plain')")
    return int(cursor.fetchone()[0])


def measure(home: Path) -> _databases.Numbers:
    points = arguments().points
    began = time.perf_counter()
    run = filled(points)
    writing = time.perf_counter() - began
    browser = Browser()
    page = f"/api/runs/{run.pk}/series?width={WIDTH}"
    browser.ask(page)
    asked = [browser.ask(page)[:2] for _ in range(ROUNDS)]
    window = f"{page}&first={points // 2}&last={points // 2 + points // 20}"
    zoomed = [browser.ask(window)[0] for _ in range(ROUNDS)]
    plain_ms, plain_bytes = plain_table(points)
    return {
        "page: server ms": statistics.median(took for took, _ in asked),
        "page: slowest ms": max(took for took, _ in asked),
        "page: kB on the wire": asked[0][1] / 1000,
        "zoomed to a twentieth: server ms": statistics.median(zoomed),
        "views without the spike": blind(browser, run, points),
        "written: million points a second": SERIES * points / writing / 1e6,
        "bytes a point": _stored(run) / (SERIES * points),
        "a row a point: ms for 1 series of 10": plain_ms,
        "a row a point: bytes a point": plain_bytes,
    }


def _stored(run: Any) -> int:
    from django.db.models import Sum
    from django.db.models.functions import Length

    from experiments.models import MetricChunk

    found = MetricChunk.objects.filter(series__run=run).aggregate(bytes=Sum(Length("data")))
    return int(found["bytes"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    return parser.parse_args()


if __name__ == "__main__":
    arguments()
    raise SystemExit(_databases.main("curves", __file__, measure, BUDGETS))
