"""The yardstick: a training loop of distillation as one would write it by hand in plain PyTorch."""

from __future__ import annotations

import time

import torch
from _engine import BATCH, CLASSES, STUDENT_NET, TEACHER, Session
from torch.nn import functional as F

from worker.distill import models

ALPHA, TEMPERATURE, RATE, DECAY = 0.9, 4.0, 0.05, 5e-4


def network(key: str, layout: torch.memory_format) -> torch.nn.Module:
    torch.manual_seed(0)
    net = models.build(key, num_classes=CLASSES, in_channels=3, image_size=32)
    placed: torch.nn.Module = net.to(memory_format=layout)  # type: ignore[call-overload]
    return placed


class Plain:
    """The data as one float tensor, a permutation, KD, SGD, nothing tracked."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, layout: torch.memory_format) -> None:
        self.images, self.labels = images.contiguous(memory_format=layout), labels
        self.student, self.teacher = network(STUDENT_NET, layout), network(TEACHER, layout).eval()
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=DECAY
        )

    def epoch(self, order: torch.Tensor) -> float:
        """CPU seconds of a pass over the data in this order."""
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


def both_layouts(engine: Session) -> tuple[Plain, Plain]:
    """The loop on the engine's own images, as they lie and channels last."""
    resident = engine.run.batches.images
    assert resident is not None
    images, labels = engine.run.augment.normalise(resident), engine.run.batches.labels
    return Plain(images, labels, torch.contiguous_format), Plain(images, labels, torch.channels_last)
