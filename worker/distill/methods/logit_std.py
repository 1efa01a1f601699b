"""Logit standardisation before distillation. Sun et al. 2024, arXiv 2403.01427."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from worker.distill import methods
from worker.distill.methods._features import wide
from worker.distill.methods._logits import divergence, tame
from worker.distill.methods._recipes import CIFAR_100, CIFAR_100_LIGHT, recipe
from worker.distill.spec import Preset, Strict, Term


def loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0, eps: float = 1e-7
) -> Tensor:
    """T² · mean over the batch of KL(softmax(Z(z_t)/T) ‖ softmax(Z(z_s)/T)), Z of each sample its Z-score
    (z − mean) / (ε + std), std unbiased: equation 11 and algorithm 1 of the paper.

    student_logits, teacher_logits: (B, C). Only relations between a sample's logits count, not their size.
    A logit of −inf takes no part in mean and deviation.
    """
    z_s, z_t = wide(student_logits), wide(teacher_logits)
    z_s, z_t = tame(standardised(z_s, eps), standardised(z_t, eps))
    return divergence(z_s / temperature, z_t / temperature).mean() * temperature**2


def standardised(logits: Tensor, eps: float) -> Tensor:
    """Mean 0 and deviation 1 over each row's finite entries: (B, C) → (B, C)."""
    known = logits > -torch.inf
    count = known.sum(1, keepdim=True)
    mean = logits.masked_fill(~known, 0).sum(1, keepdim=True) / count.clamp_min(1)
    centred = (logits - mean).masked_fill(~known, 0)
    variance = (centred**2).sum(1, keepdim=True) / (count - 1).clamp_min(1)
    flat = variance == 0  # the root's slope is infinite there
    deviation = variance.masked_fill(flat, 1).sqrt().masked_fill(flat, 0)
    return (centred / (eps + deviation)).masked_fill(~known, -torch.inf)


def _preset(title: str, training: dict[str, Any], *pair: str, t: float = 2.0) -> Preset:
    term = Term(method="logit_std", weight=9.0, params={"temperature": t})
    source = f"logit-standardization-KD, CIFAR-100: CE 0.1, KD 9, T = {t:g}"
    return recipe(title, source, term, training, *pair, task_weight=0.1)


def _pair(teacher: str, student: str, t: float, training: dict[str, Any] = CIFAR_100) -> Preset:
    """Temperatures differ by pair: those in the names of the authors' training logs."""
    return _preset(f"CIFAR-100, {teacher} → {student}", training, teacher, student, t=t)


class Method(methods.Method):
    title = "Logit standardisation"
    paper = "Sun, Ren, Li, Wang, Cao: Logit Standardization in Knowledge Distillation (CVPR 2024)"
    paper_url = "https://arxiv.org/abs/2403.01427"
    formula = "T² · mean_b KL( softmax(Z(z_t) / T) ‖ softmax(Z(z_s) / T) ), Z(z) = (z − mean) / (ε + std)"
    summary = (
        "Distillation of standardised logits: the student need not match the teacher's range, only how its "
        "logits lie to each other. Better than plain kd for students much smaller than their teacher. A "
        "sample's logits have one scale only among exclusive classes: there is no multi-label form."
    )
    presets = (
        _preset("CIFAR-100", CIFAR_100),
        _preset("CIFAR-100, MobileNetV2 or ShuffleNet student", CIFAR_100_LIGHT),
        _pair("resnet32x4", "resnet8x4", 2.0),
        _pair("vgg13", "vgg8", 3.0),
        _pair("resnet32x4", "wrn-16-2", 3.0),
        _pair("resnet32x4", "wrn-40-2", 3.0),
        _pair("vgg13", "mobilenetv2-half", 3.0, CIFAR_100_LIGHT),
        _pair("wrn-40-2", "mobilenetv2-half", 3.0, CIFAR_100_LIGHT),
    )

    class Params(Strict):
        temperature: float = Field(
            2.0,
            ge=0.05,
            le=100,
            title="Temperature",
            description="Of the standardised logits, whose range is small: 2, for some pairs 3.",
        )

    params: Params

    def forward(self, step: methods.Step) -> Tensor:
        return loss(step.student_logits, step.teacher_logits, temperature=self.params.temperature)

    def dials(self, step: methods.Step) -> dict[str, Tensor | float]:
        return {"temperature": self.params.temperature}
