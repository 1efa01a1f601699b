"""One evaluation code for teacher, student and control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.batches import memory_format
from worker.distill.data.augment import Augment
from worker.distill.data.prepared import Split
from worker.distill.errors import StopRequested

BATCH = 256
TOP5_FROM = 6  # with five classes or fewer, top-5 is always right


@dataclass(frozen=True)
class Scores:
    """Shares are fractions of 1. A class without samples has no accuracy."""

    top1: float
    top5: float | None
    loss: float
    per_class: list[float | None]


def never() -> bool:
    return False


def evaluate(
    model: nn.Module,
    split: Split,
    augment: Augment,
    *,
    num_classes: int,
    device: torch.device,
    batch_size: int = BATCH,
    should_stop: Callable[[], bool] = never,
) -> Scores:
    """Score a network on a whole split, without augmentation. Raises StopRequested."""
    model.eval()
    parts: list[Tensor] = []  # a batch each: loss sum, top-5 hits
    hits: list[Tensor] = []  # top-1, per sample
    with torch.inference_mode():
        for start in range(0, len(split.labels), batch_size):
            if should_stop():
                raise StopRequested
            images = torch.from_numpy(np.array(split.images[start : start + batch_size])).to(device)
            labels = torch.from_numpy(np.array(split.labels[start : start + batch_size])).to(device)
            inputs = augment.normalise(images).contiguous(memory_format=memory_format(device))
            logits = model(inputs).float()  # (B, C)
            best = logits.topk(5 if num_classes >= TOP5_FROM else 1, dim=1).indices
            right = best == labels[:, None]
            parts.append(
                torch.stack([F.cross_entropy(logits, labels, reduction="sum"), right.any(1).sum().float()])
            )
            hits.append(right[:, 0])
    loss, top5 = (torch.stack(parts).cpu().double().sum(0) / len(split.labels)).tolist()
    hit, truth = torch.cat(hits).cpu().numpy(), np.asarray(split.labels)
    return Scores(
        top1=float(hit.mean()),
        top5=top5 if num_classes >= TOP5_FROM else None,
        loss=loss,
        per_class=[float(hit[truth == c].mean()) if (truth == c).any() else None for c in range(num_classes)],
    )
