"""That data never starves the step: images a second from memory and from disk, alone and under training.

The training split is held in memory, or gathered from the memory map by the thread that reads ahead (the file
is in the system's cache: a disk's own speed is not measured). Alone: batches, standard augmentation and
layout, no network. Under training: the engine's own loop, resnet8 without a teacher, the fastest student and
so the hungriest. In one process, in turn; the budget is on the median of the rounds' ratios of an epoch
from disk to one from memory. One thread and CPU seconds, the reading thread's included.
Run: python benchmarks/data.py [--steps 6] [--rounds 9]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _engine import BATCH, Session, ask, prepare

from worker.distill import trainer
from worker.distill.spec import Objective

BUDGET = 1.05
PASSES = 5  # over the data alone a round: one is over too soon to be timed well


def data_alone(session: Session, epoch: int) -> float:
    """CPU seconds of a pass: every batch as the networks would see it."""
    run = session.run
    began = time.process_time()
    for number in range(epoch * PASSES, (epoch + 1) * PASSES):
        for batch in run.batches.epoch(number):
            inputs, _ = trainer.present(run, batch, (0, number), 0)
            assert inputs.dtype == torch.float32
    return (time.process_time() - began) / PASSES


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of an epoch, a round each."""
    names = ("memory", "disk")
    seconds: dict[str, list[float]] = {f"{what} {n}": [] for what in ("alone", "training") for n in names}
    with ExitStack() as stack:
        specs = {name: ask(folder, name, Objective(), epochs=rounds + 1) for name in names}
        sessions = {name: Session(spec, stack) for name, spec in specs.items()}
        assert sessions["memory"].run.batches.images is not None
        sessions["disk"].run.batches.images = None  # as if there were no room for them
        for k in range(rounds + 1):
            now = {f"alone {name}": data_alone(one, k) for name, one in sessions.items()}
            now |= {f"training {name}": one.epoch() for name, one in sessions.items()}
            if k:  # the first round warms up
                for name, value in now.items():
                    seconds[name].append(value)
                print(f"round {k}:", ", ".join(f"{n} {s:.4f} s" for n, s in now.items()), flush=True)
        _expect(sessions)
    return seconds


def _expect(sessions: dict[str, Session]) -> None:
    """That both have learnt the same from the same images."""
    weights = (one.run.student.state_dict() for one in sessions.values())
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


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
    images = arguments.steps * BATCH
    for name, values in seconds.items():
        print(f"{name}: {images / statistics.median(values):,.0f} images a second")
    worse = ratio(seconds, "training disk", "training memory")
    others = {
        "alone_disk_to_memory": ratio(seconds, "alone disk", "alone memory"),
        "share_of_step_memory": ratio(seconds, "alone memory", "training memory"),
        "share_of_step_disk": ratio(seconds, "alone disk", "training disk"),
    }
    print("data's share of a step: {share_of_step_memory} from memory, ".format(**others), end="")
    print("{share_of_step_disk} from disk".format(**others))
    print(json.dumps({"name": "data", "ratio": worse, "budget": BUDGET, "ok": worse <= BUDGET} | others))
    return 0 if worse <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
