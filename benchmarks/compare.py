"""Comparing 50 runs (≤ 200 ms server time for the page and each answer), and the first page (≤ 100 ms).

Among 10,000 made-up runs, through Django's whole request path, warm, compressed as a browser takes it.
Run: python benchmarks/compare.py [--runs 10000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import _databases

COMPARED = 50
ROUNDS = 9
FIVE = "loss/total,val/top1,val/loss,train/top1,lr"
COMPARE, HOME = 200.0, 100.0
UNBOUNDED = 0.0  # no page asks for it at once


def addresses(dataset: int, runs: list[int]) -> dict[str, tuple[str, dict[str, str], float]]:
    """What is asked: {name: (path, headers, budget in ms)}."""
    ids = ",".join(map(str, runs))
    htmx = {"HX-Request": "true"}
    pictures = "/api/compare/pictures"
    return {
        "compare 50 runs: page": (f"/compare/?ids={ids}", {}, COMPARE),
        "compare 50 runs: page, means over seeds": (f"/compare/?ids={ids}&seeds=1", {}, COMPARE),
        "figures of all their curves": (f"/api/compare/charts?runs={ids}", {}, COMPARE),
        "points of a chart: 50 series": (
            f"/api/compare/series?runs={ids}&name=loss/total&width=400",
            {},
            COMPARE,
        ),
        "points of five charts: 250 series": (
            f"/api/compare/series?runs={ids}&name={FIVE}&width=400",
            {},
            COMPARE,
        ),
        "curves as means over seeds, with points": (f"/api/compare/charts?runs={ids}&seeds=1", {}, UNBOUNDED),
        "Pareto of the 50": (f"{pictures}/pareto?runs={ids}", {}, COMPARE),
        "scatter of the 50": (f"{pictures}/scatter?runs={ids}&x=parameters&y=gain", {}, COMPARE),
        "parallel coordinates of the 50": (f"{pictures}/parallel?runs={ids}", {}, COMPARE),
        "home: page": ("/", {}, HOME),
        "home: what moves, renewed": ("/", htmx, HOME),
        "home: best students under a limit": ("/?under=500k", htmx | {"HX-Target": "frontier"}, HOME),
        "home: Pareto of all of a dataset": (f"/api/pareto?dataset={dataset}&x=latency_ms", {}, HOME),
    }


class Browser:
    """Asks as one does, in this process: what is measured is the server's time."""

    def __init__(self) -> None:
        from django.contrib.auth.models import User
        from django.test import Client

        self.client = Client(headers={"host": "localhost", "accept-encoding": "gzip"})
        self.client.force_login(User.objects.get(username="many"))

    def ask(self, path: str, headers: dict[str, str]) -> tuple[float, int]:
        """Milliseconds, bytes on the wire."""
        began = time.perf_counter()
        response = self.client.get(path, headers=headers)
        took = 1000 * (time.perf_counter() - began)
        assert response.status_code == 200, response.content
        return took, len(response.content)

    def statements(self, path: str, headers: dict[str, str]) -> int:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        with CaptureQueriesContext(connection) as seen:
            self.client.get(path, headers=headers)
        return len(seen)


def asked() -> dict[str, tuple[str, dict[str, str], float]]:
    from experiments.models import Dataset, Run

    drawn = Run.objects.shown().filter(metrics__has_key="loss/total", status=Run.Status.SUCCEEDED)
    runs = list(drawn.order_by("-pk").values_list("pk", flat=True)[:COMPARED])
    assert len(runs) == COMPARED
    dataset = Dataset.objects.order_by("pk").first()
    assert dataset is not None
    return addresses(dataset.pk, runs)


def measure(home: Path) -> _databases.Numbers:
    import _many
    from django.core.management import call_command

    call_command("collectstatic", verbosity=0, interactive=False)
    _many.fill(arguments().runs)
    browser = Browser()
    found: dict[str, Any] = {}
    for name, (path, headers, _budget) in asked().items():
        browser.ask(path, headers)
        answers = [browser.ask(path, headers) for _ in range(ROUNDS)]
        found[name] = statistics.median(took for took, _ in answers)
        found[f"  {name}: kB"] = answers[0][1] / 1000
        found[f"  {name}: statements"] = browser.statements(path, headers)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    return parser.parse_args()


if __name__ == "__main__":
    arguments()
    budgets = {name: budget for name, (_path, _headers, budget) in addresses(0, []).items() if budget}
    raise SystemExit(_databases.main("compare", __file__, measure, budgets))
