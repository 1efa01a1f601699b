"""WSLD: weighted soft labels. Zhou et al. 2021, arXiv 2102.00650."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.methods._logits import tame
from worker.distill.methods._recipes import CIFAR_100, CIFAR_100_LIGHT, IMAGENET, recipe
from worker.distill.spec import Preset, Strict, Term

EPS = 1e-7  # the authors': added to the teacher's cross-entropy


def loss(
    student_logits: Tensor, teacher_logits: Tensor, *, target: Tensor, temperature: float = 2.0
) -> Tensor:
    """mean_b w_b · T² · CE(softmax(z_t/T), softmax(z_s/T)), w_b = 1 − exp(−CE(z_s, y) / CE(z_t, y)):
    equations 10 and 11 of the paper.

    student_logits, teacher_logits: (B, C); target y: (B,) classes. The weights carry no gradient.
    """
    z_s, z_t = tame(student_logits, teacher_logits)
    soft = F.cross_entropy(z_s / temperature, torch.softmax(z_t / temperature, 1), reduction="none")
    return (sample_weights(z_s, z_t, target=target) * soft).mean() * temperature**2


def sample_weights(student_logits: Tensor, teacher_logits: Tensor, *, target: Tensor) -> Tensor:
    """w (B,) in [0, 1): small where the student knows the sample better than the teacher does."""
    ours = F.cross_entropy(student_logits.detach(), target, reduction="none")
    theirs = F.cross_entropy(teacher_logits.detach(), target, reduction="none")
    return 1 - torch.exp(-ours / (theirs + EPS))


def _preset(title: str, source: str, weight: float, t: float, training: dict[str, Any]) -> Preset:
    return recipe(title, source, Term(method="wsld", weight=weight, params={"temperature": t}), training)


_CIFAR = "the authors' CIFAR-100 settings: weight 2.25, T 4, CE 1"


class Method(methods.Method):
    title = "Weighted soft labels"
    paper = "Zhou et al.: Rethinking Soft Labels for Knowledge Distillation (ICLR 2021)"
    paper_url = "https://arxiv.org/abs/2102.00650"
    formula = "mean_b w_b · T² · CE( softmax(z_t / T), softmax(z_s / T) ), w = 1 − exp(−CE_s / CE_t)"
    summary = (
        "Each sample's soft label counts as much as the teacher knows more about it than the student does. "
        "Needs one right class a sample, so there is no multi-label form."
    )
    needs = ("logits", "labels")
    presets = (
        _preset("CIFAR-100", _CIFAR, 2.25, 4.0, CIFAR_100),
        _preset("CIFAR-100, MobileNetV2 or ShuffleNet student", _CIFAR, 2.25, 4.0, CIFAR_100_LIGHT),
        _preset("ImageNet", "the authors' ImageNet settings: weight 2.5, T 2, CE 1", 2.5, 2.0, IMAGENET),
    )

    class Params(Strict):
        temperature: float = Field(
            2.0, ge=0.05, le=100, title="Temperature", description="4 for CIFAR-100, 2 for ImageNet."
        )

    params: Params

    def forward(self, step: methods.Step) -> Tensor:
        return loss(
            step.student_logits,
            step.teacher_logits,
            target=step.labels,
            temperature=self.params.temperature,
        )

    def dials(self, step: methods.Step) -> dict[str, Tensor | float]:
        z_s, z_t = tame(step.student_logits, step.teacher_logits)
        weights = sample_weights(z_s, z_t, target=step.labels)
        return {"temperature": self.params.temperature, "sample weight": weights.mean()}
