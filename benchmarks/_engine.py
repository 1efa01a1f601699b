"""The engine's own training loop, an epoch at a time, so that loops can be timed in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel

from worker.distill import evaluate, models, trainer
from worker.distill.assemble import assemble
from worker.distill.checkpoint import STUDENT, save_student
from worker.distill.data.prepared import Augmentation, Writer
from worker.distill.keeping import Keeper
from worker.distill.lessons import Lessons
from worker.distill.meter import Meter
from worker.distill.spec import ModelRef, Objective, RunSpec, TeacherCache, Training

BATCH, CLASSES = 128, 10
TEACHER, STUDENT_NET = "resnet20", "resnet8"


def prepare(folder: Path, steps: int) -> None:
    """A dataset of so many batches, and a teacher. Random pixels and weights cost what real ones cost."""
    random = np.random.RandomState(0)
    names = [str(c) for c in range(CLASSES)]
    with Writer(folder / "data", kind="random", classes=names, channels=3, height=32, width=32) as writer:
        for split, number in (("train", steps * BATCH), ("val", CLASSES)):
            images = random.randint(0, 256, (number, 3, 32, 32)).astype(np.uint8)
            writer.add(split, images, np.arange(number) % CLASSES)
        writer.finish(augment=Augmentation(padding=4, flip=True))
    torch.manual_seed(0)
    network = models.build(TEACHER, num_classes=CLASSES, in_channels=3, image_size=32)
    save_student(folder / "teacher", network, 0)


def ask(
    folder: Path,
    name: str,
    objective: Objective,
    *,
    cache: str = "",
    epochs: int,
    views: int = 0,
    seed: int = 0,
) -> RunSpec:
    """An augmented run; with terms in its objective under the teacher, with a cache's name through that."""
    weights = str(folder / "teacher" / STUDENT)
    return RunSpec(
        dataset=str(folder / "data"),
        student=ModelRef(architecture=STUDENT_NET),
        teacher=ModelRef(architecture=TEACHER, weights=weights) if objective.terms else None,
        training=Training(epochs=epochs, batch_size=BATCH, augment=True, views=views, seed=seed),
        objective=objective,
        cache=TeacherCache(folder=str(folder / cache)) if cache else None,
        output=str(folder / name),
        device="cpu",
    )


class Session:
    """A run under way; its events are written out as to the supervisor's pipe."""

    def __init__(self, spec: RunSpec, open_until: ExitStack) -> None:
        self.sink = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        open_until.callback(self.sink.close)
        self.run = assemble(spec, torch.device("cpu"), self.report)
        self.lessons = Lessons(self.run, self.report, evaluate.never)
        total = self.run.epochs * self.run.steps
        meter = Meter(self.report, total_steps=total, epochs=self.run.epochs)
        self.keeper = Keeper(self.run, self.lessons, meter, self.report)
        stage = self.run.stages[-1]
        self.part = open_until.enter_context(trainer.part_of(self.run, stage))
        open_until.enter_context(self.lessons.about(stage, self.part.wanted))

    def report(self, event: BaseModel) -> None:
        self.sink.write(event.model_dump_json() + "\n")
        self.sink.flush()

    def epoch(self) -> float:
        """CPU seconds of the next epoch, validation left out."""
        began = time.process_time()
        trainer.one_epoch(self.run, self.part, self.lessons, self.keeper, evaluate.never)
        seconds = time.process_time() - began
        self.run.epoch, self.run.batch = self.run.epoch + 1, 0
        return seconds


@contextmanager
def session(spec: RunSpec) -> Iterator[Session]:
    with ExitStack() as stack:
        yield Session(spec, stack)
