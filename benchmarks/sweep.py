"""What a sweep costs with the cache its runs share: eight students under one teacher against eight alone.

Whole trainings, augmentation on, each with its own seed: everything from assembling to the last epoch's
validation and checkpoint. The sweep begins with an empty cache, so the first student's run pays for the
teacher. In one process, alternating; the ratio is of the sums. One thread and CPU seconds.
Run: python benchmarks/sweep.py [--steps 2] [--epochs 12] [--students 8]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _engine import ask, prepare
from pydantic import BaseModel

from worker.distill import evaluate, trainer
from worker.distill.assemble import assemble
from worker.distill.lessons import Lessons
from worker.distill.spec import Objective, RunSpec, hinton

BUDGET = 1.10
VIEWS = 4


def silent(event: BaseModel) -> None:
    event.model_dump_json()  # as for the supervisor's pipe


def training(spec: RunSpec) -> tuple[float, int]:
    """(CPU seconds, views of the teacher computed) of one training, its final measurements left out."""
    began = time.process_time()
    run = assemble(spec, torch.device("cpu"), silent)
    lessons = Lessons(run, silent, evaluate.never)
    trainer.fit(run, lessons, silent, evaluate.never)
    seconds = time.process_time() - began
    summary = lessons.summary()
    return seconds, summary["computed"] if summary else 0


def measure(folder: Path, students: int, epochs: int) -> tuple[float, float]:
    """CPU seconds of all students under the teacher, and alone."""
    training(ask(folder, "warm-up", Objective(), epochs=1))
    distilled = alone = 0.0
    for k in range(students):
        base, _ = training(ask(folder, f"alone-{k}", Objective(), epochs=epochs, views=VIEWS, seed=k))
        spec = ask(folder, f"taught-{k}", hinton(), cache="cache", epochs=epochs, views=VIEWS, seed=k)
        ours, computed = training(spec)
        assert computed == (0 if k else min(VIEWS, epochs)), computed
        print(f"student {k}: under the teacher {ours:.3f} s, alone {base:.3f} s", flush=True)
        distilled, alone = distilled + ours, alone + base
    return distilled, alone


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--students", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kdweb-bench-") as name:
        prepare(Path(name), arguments.steps)
        distilled, alone = measure(Path(name), arguments.students, arguments.epochs)
    ratio = round(distilled / alone, 4)
    print(f"{arguments.students} students: {distilled:.2f} s under the teacher, {alone:.2f} s alone")
    print(json.dumps({"name": "sweep", "ratio": ratio, "budget": BUDGET, "ok": ratio <= BUDGET}))
    return 0 if ratio <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
