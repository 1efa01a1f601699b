"""NKD: normalised knowledge distillation. Yang et al. 2023, arXiv 2303.13005."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from worker.distill import methods
from worker.distill.methods._logits import FLOOR, is_target, tame
from worker.distill.methods._recipes import CIFAR_100, IMAGENET, recipe
from worker.distill.spec import Preset, Strict, Term


def loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    target: Tensor,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    """−mean_b p_t[y] log p_s[y] − γ T² mean_b Σ_{i≠y} p̂_t[i] log p̂_s[i]: equation 8 of the paper.

    student_logits, teacher_logits: (B, C); target y: (B,) classes. p at T = 1; p̂ over all classes but the
    target, at T. A cross-entropy, not a divergence: equal networks do not give 0. Two classes: the second
    part is 0.
    """
    z_s, z_t = tame(student_logits, teacher_logits)
    here = is_target(z_s, target)
    known = -(torch.softmax(z_t, 1)[here] * torch.log_softmax(z_s, 1)[here])  # (B,)
    log_s, log_t = (torch.log_softmax((z / temperature).masked_fill(here, FLOOR), 1) for z in (z_s, z_t))
    others = -(log_t.exp() * log_s).masked_fill(here, 0).sum(1)
    return known.mean() + gamma * temperature**2 * others.mean()


def _preset(title: str, source: str, gamma: float, t: float, training: dict[str, Any], *pair: str) -> Preset:
    term = Term(method="nkd", params={"gamma": gamma, "temperature": t})
    return recipe(title, source, term, training, *pair)


# cls_KD's own schedule for CIFAR-100, by which its γ and T were found.
_CIFAR = CIFAR_100 | {
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "milestones": [0.3, 0.6, 0.8],
    "step_factor": 0.2,
}
_R34_R18 = ("torchvision/resnet34", "torchvision/resnet18")


class Method(methods.Method):
    title = "Normalised knowledge distillation"
    paper = "Yang et al.: From Knowledge Distillation to Self-Knowledge Distillation (ICCV 2023)"
    paper_url = "https://arxiv.org/abs/2303.13005"
    formula = "−mean p_t[y] · log p_s[y] − γ · T² · mean Σ_{i≠y} p̂_t[i] · log p̂_s[i]"
    summary = (
        "The target's probability is a weight on the task, and the non-targets are normalised to a "
        "distribution of their own before they are matched. Needs one right class a sample, so there is no "
        "multi-label form."
    )
    needs = ("logits", "labels")
    presets = (
        _preset("ImageNet", "cls_KD, configs: γ 1.5, T 1, CE 1", 1.5, 1.0, IMAGENET),
        _preset("ImageNet, ResNet-34 → ResNet-18", "cls_KD: γ 1.5, T 1", 1.5, 1.0, IMAGENET, *_R34_R18),
        _preset("CIFAR-100", "cls_KD, CIFAR-100 ResNet-34 → ResNet-18: γ 3.5, T 3", 3.5, 3.0, _CIFAR),
    )

    class Params(Strict):
        gamma: float = Field(1.5, ge=0, le=1000, title="γ", description="Weight of the non-targets' part.")
        temperature: float = Field(
            1.0, ge=0.05, le=100, title="Temperature", description="Of the non-targets' part alone."
        )

    params: Params

    def forward(self, step: methods.Step) -> Tensor:
        p = self.params
        return loss(
            step.student_logits,
            step.teacher_logits,
            target=step.labels,
            gamma=p.gamma,
            temperature=p.temperature,
        )

    def dials(self, step: methods.Step) -> dict[str, Tensor | float]:
        return {"temperature": self.params.temperature}
