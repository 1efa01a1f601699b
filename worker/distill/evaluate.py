"""One evaluation code for teacher, student and control: a network's logits on a split and their worth.

evaluate() = predict() the logits of a whole split → judge() them against labels and a teacher's logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.batches import memory_format
from worker.distill.data.augment import Augment
from worker.distill.data.prepared import Split
from worker.distill.errors import StopRequested

BATCH = 256
TOP5_FROM = 6  # with five classes or fewer, top-5 is always right
BINS = 15  # of the calibration error, as in its paper
MATRIX_UP_TO = 200  # classes; beyond, the pairs confused most often stand for the confusion matrix
PAIRS = 50
ROWS = 4096  # judged at a time: fifty thousand rows of a thousand classes need no second copy


@dataclass(frozen=True)
class Bin:
    """The predictions of one reliability bin: how many, how sure on average, how many of them are right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Scores:
    """A network on a split. Shares are fractions of 1; None is what the task does not have.

    `score` is the one number that runs are ranked by: top1, or map for multi-label (0 where no label occurs).
    """

    score: float
    loss: float  # cross-entropy; multi-label: binary cross-entropy, mean over samples and labels
    ece: float  # Σ_bins share · |accuracy − confidence|, Guo et al. 2017, eq. 3
    reliability: list[Bin | None]  # 15 equal bins of (0, 1]; None: empty

    # single-label
    top1: float | None = None
    top5: float | None = None
    per_class: list[float | None] | None = None  # a class without samples has no accuracy
    confusion: list[list[int]] | None = None  # counts, row: truth, column: prediction
    confused: list[list[int]] | None = None  # [truth, prediction, count], most often first; instead of it

    # multi-label
    map: float | None = None  # mean of the average precisions
    average_precision: list[float | None] | None = None  # of each label; None: it never occurs
    f1_micro: float | None = None
    f1_macro: float | None = None  # over the labels that occur or are predicted
    exact_match: float | None = None  # samples with all labels right

    # against a teacher
    agreement: float | None = None  # same top-1; multi-label: same decisions, over samples and labels
    kl: float | None = None  # mean KL(teacher ‖ student) at T = 1; multi-label: Bernoulli, labels summed

    def points(self, split: str) -> dict[str, float]:
        """What is drawn over the epochs, by series."""
        shown = {
            "top1": self.top1,
            "top5": self.top5,
            "map": self.map,
            "f1": self.f1_micro,
            "loss": self.loss,
        }
        return {f"{split}/{name}": value for name, value in shown.items() if value is not None}

    def words(self) -> str:
        name = "top-1" if self.map is None else "mAP"
        return f"{name} {self.score:.2%}, loss {self.loss:.4f}"


def never() -> bool:
    return False


def evaluate(
    model: nn.Module,
    split: Split,
    augment: Augment,
    *,
    num_classes: int,
    device: torch.device,
    task: str = "single-label",
    batch_size: int = BATCH,
    should_stop: Callable[[], bool] = never,
    teacher_logits: Tensor | None = None,
) -> Scores:
    """Score a network on a whole split, without augmentation. Raises StopRequested.

    teacher_logits: (N, C) of the same split; None: no teacher, or one of another label set.
    """
    logits = predict(model, split, augment, device=device, batch_size=batch_size, should_stop=should_stop)
    return judge(logits, split.labels, num_classes=num_classes, task=task, teacher_logits=teacher_logits)


def predict(
    model: nn.Module,
    split: Split,
    augment: Augment,
    *,
    device: torch.device,
    batch_size: int = BATCH,
    should_stop: Callable[[], bool] = never,
) -> Tensor:
    """The logits (N, C) of a whole split, float32 on the CPU. Raises StopRequested."""
    model.eval()
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(split.labels), batch_size):
            if should_stop():
                raise StopRequested
            images = torch.from_numpy(np.array(split.images[start : start + batch_size])).to(device)
            inputs = augment.normalise(images).contiguous(memory_format=memory_format(device))
            parts.append(model(inputs).float().cpu())
    return torch.cat(parts)


def judge(
    logits: Tensor,
    labels: NDArray[Any],
    *,
    num_classes: int,
    task: str = "single-label",
    teacher_logits: Tensor | None = None,
) -> Scores:
    """Scores of logits (N, C) under labels: (N,) classes, or (N, C) zeros and ones for multi-label."""
    if teacher_logits is not None and teacher_logits.shape != logits.shape:
        theirs, ours = tuple(teacher_logits.shape), tuple(logits.shape)
        raise ValueError(f"teacher_logits = {theirs}: the student's are {ours}; give None for other labels.")
    truth = torch.from_numpy(np.array(labels))
    if task == "multi-label":
        return _multi_label(logits, truth.bool(), teacher_logits)
    return _single_label(logits, truth.long(), num_classes, teacher_logits)


# ---- single-label --------------------------------------------------------------------------------


def _single_label(logits: Tensor, truth: Tensor, num_classes: int, teacher: Tensor | None) -> Scores:
    losses, sure, kls = [], [], []
    for rows in (slice(start, start + ROWS) for start in range(0, len(truth), ROWS)):
        log_p = logits[rows].double().log_softmax(1)  # (R, C)
        losses.append(F.nll_loss(log_p, truth[rows], reduction="none"))
        sure.append(log_p.amax(1).exp())
        if teacher is not None:
            kls.append(_divergence(teacher[rows].double().log_softmax(1), log_p).sum(1))
    best = logits.topk(5 if num_classes >= TOP5_FROM else 1, dim=1).indices  # (N, 5 or 1)
    right = best == truth[:, None]
    guess, hit = best[:, 0], right[:, 0]
    ece, reliability = calibration(torch.cat(sure), hit)
    confusion = torch.bincount(truth * num_classes + guess, minlength=num_classes**2).view(num_classes, -1)
    small = num_classes <= MATRIX_UP_TO
    top1 = hit.double().mean().item()
    return Scores(
        score=top1,
        loss=torch.cat(losses).mean().item(),
        ece=ece,
        reliability=reliability,
        top1=top1,
        top5=right.any(1).double().mean().item() if num_classes >= TOP5_FROM else None,
        per_class=[hits / of if of else None for hits, of in _diagonal(confusion)],
        confusion=confusion.tolist() if small else None,
        confused=None if small else most_confused(confusion),
        agreement=None if teacher is None else (guess == teacher.argmax(1)).double().mean().item(),
        kl=None if teacher is None else torch.cat(kls).mean().item(),
    )


def _diagonal(confusion: Tensor) -> list[tuple[int, int]]:
    """(hits, samples) of each class."""
    return list(zip(confusion.diagonal().tolist(), confusion.sum(1).tolist(), strict=True))


def most_confused(confusion: Tensor) -> list[list[int]]:
    """[truth, prediction, count] of the mistakes made most often."""
    mistakes = confusion - confusion.diagonal().diag()
    counts, places = mistakes.flatten().topk(min(PAIRS, mistakes.numel()))
    classes = len(confusion)
    found = zip(places.tolist(), counts.tolist(), strict=True)
    return [[place // classes, place % classes, count] for place, count in found if count]


# ---- multi-label ---------------------------------------------------------------------------------


def _multi_label(logits: Tensor, truth: Tensor, teacher: Tensor | None) -> Scores:
    """A label is predicted where its probability is above one half."""
    guess = logits > 0  # (N, C)
    hits = (guess & truth).sum(0).double()  # (C,)
    named = guess.sum(0).double() + truth.sum(0).double()  # 2·TP + FP + FN
    f1 = (2 * hits / named)[named > 0]
    ece, reliability = calibration(logits.double().sigmoid().flatten(), truth.flatten())
    precisions = average_precisions(logits, truth)
    known = [value for value in precisions if value is not None]
    mean_precision = float(np.mean(known)) if known else 0.0
    agreement = kl = None
    if teacher is not None:
        agreement = (guess == (teacher > 0)).double().mean().item()
        kl = _bernoulli(teacher.double(), logits.double()).sum(1).mean().item()
    return Scores(
        score=mean_precision,
        loss=F.binary_cross_entropy_with_logits(logits.double(), truth.double()).item(),
        ece=ece,
        reliability=reliability,
        map=mean_precision,
        average_precision=precisions,
        f1_micro=(2 * hits.sum() / named.sum()).item() if named.sum() else 0.0,
        f1_macro=f1.mean().item() if len(f1) else 0.0,
        exact_match=(guess == truth).all(1).double().mean().item(),
        agreement=agreement,
        kl=kl,
    )


def average_precisions(logits: Tensor, truth: Tensor) -> list[float | None]:
    """Σ_n (R_n − R_{n−1})·P_n over the distinct thresholds, per label; None for one that never occurs."""
    from sklearn.metrics import average_precision_score  # half a second to import, and only needed here

    # What is not a number is ranked last: the caller sees it in the loss.
    values, marks = logits.nan_to_num(nan=-3e38).numpy(), truth.numpy()
    return [
        float(average_precision_score(marks[:, c], values[:, c])) if marks[:, c].any() else None
        for c in range(marks.shape[1])
    ]


def _bernoulli(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(B(σ(t)) ‖ B(σ(s))), elementwise."""
    there = _divergence(F.logsigmoid(teacher), F.logsigmoid(student))
    return there + _divergence(F.logsigmoid(-teacher), F.logsigmoid(-student))


# ---- both ----------------------------------------------------------------------------------------


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p·log(p/q), elementwise; 0 where p = 0, as its limit is."""
    return torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q))


def calibration(confidence: Tensor, right: Tensor) -> tuple[float, list[Bin | None]]:
    """Expected calibration error over 15 bins (0, 1/15], … (14/15, 1], and the bins. Guo et al. 2017, eq. 3.

    Single-label: confidence of the prediction and whether it is right. Multi-label: the probability of every
    label of every sample and whether the label is there. Shapes (N,).
    """
    sure = confidence.nan_to_num(nan=1.0)
    place = (sure * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    counts = torch.bincount(place, minlength=BINS)
    confidences = torch.bincount(place, weights=sure, minlength=BINS)
    hits = torch.bincount(place, weights=right.double(), minlength=BINS)
    ece = ((hits - confidences).abs().sum() / len(sure)).item()
    bins = zip(counts.tolist(), confidences.tolist(), hits.tolist(), strict=True)
    return ece, [Bin(n, total / n, right / n) if n else None for n, total, right in bins]
