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
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from pydantic import BaseModel
from torch.nn import functional as F

from worker.distill import evaluate, models, trainer
from worker.distill.checkpoint import STUDENT, save_student
from worker.distill.data.prepared import Writer
from worker.distill.spec import ModelRef, RunSpec, Training, hinton

BUDGET = 1.05
BATCH, CLASSES, ALPHA, TEMPERATURE, RATE, DECAY = 128, 10, 0.9, 4.0, 0.05, 5e-4


def network(key: str, layout: torch.memory_format) -> torch.nn.Module:
    torch.manual_seed(0)
    net = models.build(key, num_classes=CLASSES, in_channels=3, image_size=32)
    placed: torch.nn.Module = net.to(memory_format=layout)  # type: ignore[call-overload]
    return placed


class Plain:
    """What one would write by hand: the data as one float tensor, a permutation, KD, SGD, nothing tracked."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, layout: torch.memory_format) -> None:
        self.images, self.labels = images.contiguous(memory_format=layout), labels
        self.student, self.teacher = network("resnet8", layout), network("resnet20", layout).eval()
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=DECAY
        )

    def epoch(self, order: torch.Tensor) -> float:
        self.student.train()
        began = time.process_time()
        for index in torch.split(order, BATCH):
            x, y = self.images[index], self.labels[index]
            zs = self.student(x)
            with torch.no_grad():
                zt = self.teacher(x)
            kd = F.kl_div(
                F.log_softmax(zs / TEMPERATURE, 1),
                F.softmax(zt / TEMPERATURE, 1),
                reduction="batchmean",
            )
            loss = (1 - ALPHA) * F.cross_entropy(zs, y) + ALPHA * TEMPERATURE**2 * kd
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return time.process_time() - began


class Engine:
    """The engine's own loop, its events written out as to the supervisor's pipe."""

    def __init__(self, folder: Path, rounds: int) -> None:
        save_student(folder / "teacher", network("resnet20", torch.contiguous_format), 0)
        spec = RunSpec(
            dataset=str(folder / "data"),
            student=ModelRef(architecture="resnet8"),
            teacher=ModelRef(architecture="resnet20", weights=str(folder / "teacher" / STUDENT)),
            training=Training(epochs=rounds, batch_size=BATCH, learning_rate=RATE, weight_decay=DECAY),
            objective=hinton(ALPHA, TEMPERATURE),
            output=str(folder / "run"),
            device="cpu",
        )
        self.sink = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        self.run = trainer.assemble(spec, torch.device("cpu"), lambda event: None)
        self.meter = trainer.gauge(self.run, self.report)

    def report(self, event: BaseModel) -> None:
        self.sink.write(event.model_dump_json() + "\n")
        self.sink.flush()

    def epoch(self) -> float:
        began = time.process_time()
        trainer.one_epoch(self.run, self.meter, evaluate.never)
        seconds = time.process_time() - began
        self.run.epoch, self.run.batch = self.run.epoch + 1, 0
        return seconds


def dataset(folder: Path, size: int) -> None:
    """Random pixels: they cost what real ones cost."""
    random = np.random.RandomState(0)
    names = [str(c) for c in range(CLASSES)]
    with Writer(folder, kind="random", classes=names, channels=3, height=32, width=32) as writer:
        for split, number in (("train", size), ("val", BATCH)):
            images = random.randint(0, 256, (number, 3, 32, 32)).astype(np.uint8)
            writer.add(split, images, np.arange(number) % CLASSES)
        writer.finish()


def measure(steps: int, rounds: int) -> tuple[list[float], list[float]]:
    """(ratios to the plain loop, ratios to the plain loop channels last), a round each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset(folder / "data", steps * BATCH)
        engine = Engine(folder, rounds + 1)
        resident = engine.run.batches.images
        assert resident is not None
        images = engine.run.augment.normalise(resident)
        plain, last = (
            Plain(images, engine.run.batches.labels, layout)
            for layout in (torch.contiguous_format, torch.channels_last)
        )
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
