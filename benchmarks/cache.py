"""What a warm teacher cache leaves of distillation's cost: its epoch against one of the student alone.

For logits (kd) and for pooled features (pkt), augmentation on: views are cycled, an earlier run has filled
the cache, and opening it counts. Beside it: the teacher computed at each step, and a cache that is filled at
each epoch. Same student, batches and optimiser, in one process, in turn; the budget is on the worse of the
two medians of the rounds' ratios. One thread and CPU seconds, so that busy neighbours count for neither side.
Run: python benchmarks/cache.py [--steps 6] [--rounds 9]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _engine import Session, ask, prepare, session

from worker.distill.spec import Objective, Term, hinton

BUDGET = 1.05
VIEWS = 2
ALONE = Objective()
KD = hinton()
PKT = Objective(terms=[Term(method="pkt")])


def fill(folder: Path) -> None:
    """An earlier run of each kind."""
    for name, objective in (("kd", KD), ("pkt", PKT)):
        spec = ask(folder, f"filling-{name}", objective, cache="warm", epochs=VIEWS, views=VIEWS)
        with session(spec) as earlier:
            for _ in range(VIEWS):
                earlier.epoch()


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each loop's epochs, a round each."""
    fill(folder)
    epochs = rounds + 1
    specs = {
        "alone": ask(folder, "alone", ALONE, epochs=epochs),
        "logits": ask(folder, "logits", KD, cache="warm", epochs=epochs, views=VIEWS),
        "features": ask(folder, "features", PKT, cache="warm", epochs=epochs, views=VIEWS),
        "each step": ask(folder, "each step", KD, epochs=epochs),
        "filling": ask(folder, "filling", KD, cache="cold", epochs=epochs),
    }
    seconds: dict[str, list[float]] = {name: [] for name in specs}
    with ExitStack() as stack:
        sessions = {name: Session(spec, stack) for name, spec in specs.items()}
        for k in range(epochs):
            now = {name: one.epoch() for name, one in sessions.items()}
            if k:  # the first round warms up
                for name, value in now.items():
                    seconds[name].append(value)
                print(f"round {k}:", ", ".join(f"{n} {s:.3f} s" for n, s in now.items()), flush=True)
        _expect(sessions)
    return seconds


def _expect(sessions: dict[str, Session]) -> None:
    """That each loop did what it stands for."""
    for name, computed in (("logits", 0), ("features", 0), ("filling", sessions["filling"].run.epoch)):
        summary = sessions[name].lessons.summary()
        assert summary is not None, name
        assert summary["computed"] == computed, (name, summary)
        assert summary["rows"] > 0, (name, summary)


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    return round(statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True)), 4)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kdweb-bench-") as name:
        prepare(Path(name), arguments.steps)
        seconds = measure(Path(name), arguments.rounds)
    ratios = {
        "logits": ratio(seconds, "logits", "alone"),
        "features": ratio(seconds, "features", "alone"),
        "each_step": ratio(seconds, "each step", "alone"),
        "filling_to_each_step": ratio(seconds, "filling", "each step"),
    }
    print("to the student alone: warm logits {logits}, warm features {features}, ".format(**ratios), end="")
    print("teacher at each step {each_step}; filling ÷ each step {filling_to_each_step}".format(**ratios))
    worse = max(ratios["logits"], ratios["features"])
    said = {"name": "cache", "ratio": worse, "budget": BUDGET, "ok": worse <= BUDGET}
    print(json.dumps(said | ratios))
    return 0 if worse <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
