"""The same questions to SQLite and to PostgreSQL: each in a process of its own, answers side by side.

PostgreSQL is started here, on a unix socket, and ended again; SQLite is a file. A benchmark calls `main` with
what it measures: a function that, within a site on one database, gives {name: number}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import _site as here

Numbers = dict[str, float]
CHILD = "KDWEB_BENCHMARK_DATABASE"
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@contextmanager
def _database(vendor: str) -> Iterator[str]:
    if vendor == "sqlite":
        yield ""
        return
    from tests.faults.servers import Postgres

    server = Postgres()
    try:
        server.start()
        yield server.url
    finally:
        server.close()


def _measured(script: str, vendor: str) -> Numbers:
    with _database(vendor) as url:
        argv = [sys.executable, script, *sys.argv[1:]]
        done = subprocess.run(
            argv, env=os.environ | {CHILD: url or "sqlite"}, stdout=subprocess.PIPE, text=True
        )
    if done.returncode:
        raise SystemExit(f"{NAMES[vendor]}: the measurement failed")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(name: str, script: str, measure: Callable[[Path], Numbers], budgets: Numbers) -> int:
    """Prints a table (a column a database) and a line of JSON; 1 where a number is above its budget."""
    if url := os.environ.get(CHILD):
        with here.site("" if url == "sqlite" else url) as home:
            (home / "static").mkdir()  # nothing is served, and its absence would be remarked on
            print(json.dumps({row: round(number, 3) for row, number in measure(home).items()}))
        return 0
    found = {vendor: _measured(script, vendor) for vendor in NAMES}
    width = max(len(row) for numbers in found.values() for row in numbers)
    print(f"{'':{width}}  {'SQLite':>12}  {'PostgreSQL':>12}  {'budget':>8}")
    for row in found["sqlite"]:
        cells = "  ".join(f"{numbers[row]:12,.2f}" for numbers in found.values())
        budget = f"≤ {budgets[row]:g}" if row in budgets else ""
        print(f"{row:{width}}  {cells}  {budget:>8}")
    ratio = max(numbers[row] / budget for numbers in found.values() for row, budget in budgets.items())
    said = {"name": name, **found, "ratio": round(ratio, 3), "budget": 1.0, "ok": ratio <= 1}
    print(json.dumps(said))
    return 0 if ratio <= 1 else 1
