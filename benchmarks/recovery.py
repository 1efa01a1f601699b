"""From kill -9 of a worker to its run training again, on another worker and on the same one: ≤ 60 s.

On another worker the lease must run out first; a worker that is started again under its old name takes its
run up at once. The weights must be those of an undisturbed run of the same spec. A private Redis, SQLite,
real workers, scikit-learn's digits. Run: python benchmarks/recovery.py
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import _site as here

SECONDS = 60.0
BUDGET = 1.0
EPOCHS = 60


def struck(home: Path, dataset: Any, then: str) -> tuple[float, str]:
    """Seconds from the kill to the next attempt's first step, and the hash of the weights at the end."""
    from experiments import metric_store
    from experiments.models import Run

    with ExitStack() as stack:
        with here.worker(home, "first") as first:
            run = here.start(dataset, EPOCHS)
            here.wait_for(run.artifacts.filter(kind="resume").exists)
            if then != "first":
                stack.enter_context(here.worker(home, then))
            first.send_signal(signal.SIGKILL)
            killed = time.time()
        if then == "first":
            stack.enter_context(here.worker(home, then))
        done = here.succeeded(run)
    assert done.fence == 2, f"{done.fence} attempts"
    points = metric_store.read(Run.objects.get(pk=run.pk).series.get(name="loss/total"), width=10**6)
    return float(points.wall[points.wall > killed][0] - killed), weights(done)


def weights(run: Any) -> str:
    return str(run.artifacts.filter(kind="student").order_by("-fence")[0].sha256)


def main() -> int:
    with here.site() as home:
        with here.worker(home, "first"):
            dataset = here.prepared()
            undisturbed = weights(here.succeeded(here.start(dataset, EPOCHS)))
        found = {then: struck(home, dataset, then) for then in ("second", "first")}
    for then, (seconds, sha) in found.items():
        where = "the same worker, started again" if then == "first" else "another worker"
        print(f"{where}: {seconds:.1f} s, weights {'identical' if sha == undisturbed else 'DIFFERENT'}")
    ratio = max(seconds for seconds, _ in found.values()) / SECONDS
    same = all(sha == undisturbed for _, sha in found.values())
    said = {"name": "recovery", "seconds": round(ratio * SECONDS, 1), "ratio": round(ratio, 3)}
    print(json.dumps(said | {"budget": BUDGET, "identical": same, "ok": same and ratio <= BUDGET}))
    return 0 if same and ratio <= BUDGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
