"""What the engine costs: its training loop, tracking on, against a hand-written plain PyTorch loop.

Same networks, weights, batches and optimiser, in one process, in turn; the budget is on the median of the
rounds' ratios. The second ratio is to the same loop with its tensors channels last, as the engine has them:
it shows the loop alone. One thread and CPU seconds, so that busy neighbours count for neither side.
Run: python benchmarks/step.py [--steps 6] [--rounds 9]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _engine import Session, ask, prepare, session
from _plain import ALPHA, TEMPERATURE, both_layouts

from worker.distill.spec import hinton

BUDGET = 1.00


def measure(steps: int, rounds: int) -> tuple[list[float], list[float]]:
    """(ratios to the plain loop, ratios to the plain loop channels last), a round each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, steps)
        spec = ask(folder, "run", hinton(ALPHA, TEMPERATURE), epochs=rounds + 1)
        spec.training.augment = False
        with session(spec) as engine:
            return _in_turn(engine, rounds)


def _in_turn(engine: Session, rounds: int) -> tuple[list[float], list[float]]:
    plain, last = both_layouts(engine)
    ratios: tuple[list[float], list[float]] = ([], [])
    for k in range(rounds + 1):
        order = engine.run.batches.order(k)
        ours, base, same = engine.epoch(), plain.epoch(order), last.epoch(order)
        if k:  # the first round warms up
            ratios[0].append(ours / base)
            ratios[1].append(ours / same)
            print(
                f"round {k}: engine {ours:.3f} s, plain {base:.3f} s, channels last {same:.3f} s",
                flush=True,
            )
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plain, last = (statistics.median(r) for r in measure(arguments.steps, arguments.rounds))
    ok = plain <= BUDGET
    print(f"median ratio to the loop channels last: {last:.3f}")
    print(json.dumps({"name": "step", "ratio": round(plain, 4), "budget": BUDGET, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
