"""From the click on start to the first training step, with a warm worker: ≤ 2 s.

The whole path on this machine: a private Redis, SQLite, a real Celery worker, the real engine, scikit-learn's
digits. The step's own wall clock counts. Run: python benchmarks/startup.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import _site as here

SECONDS = 2.0
BUDGET = 1.0


def click(dataset: Any) -> float:
    """Seconds from submit to the first step of a small training; waits for its end."""
    from experiments import metric_store

    clicked = time.time()
    done = here.succeeded(here.start(dataset, epochs=1))
    return float(metric_store.read(done.series.get(name="loss/total")).wall[0] - clicked)


def measure(home: Path, rounds: int) -> list[float]:
    with here.worker(home) as process:
        dataset = here.prepared()
        seconds = []
        for _ in range(rounds):
            here.wait_for(lambda: here.spare_is_warm(process.pid))
            seconds.append(click(dataset))
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with here.site() as home:
        all_seconds = measure(home, rounds)
    seconds = statistics.median(all_seconds)
    print("each click:", ", ".join(f"{value:.2f} s" for value in all_seconds))
    ratio = seconds / SECONDS
    said = {"name": "startup", "seconds": round(seconds, 3), "ratio": round(ratio, 3), "budget": BUDGET}
    print(json.dumps(said | {"ok": ratio <= BUDGET}))
    return 0 if ratio <= BUDGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
