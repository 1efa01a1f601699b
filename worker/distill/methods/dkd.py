"""Decoupled knowledge distillation. Zhao et al. 2022, arXiv 2203.08679."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from worker.distill import methods
from worker.distill.methods._logits import FLOOR, divergence, is_target, tame
from worker.distill.methods._recipes import CIFAR_100, CIFAR_100_LIGHT, IMAGENET, recipe
from worker.distill.spec import Preset, Strict, Term


def loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """T² · (α · TCKD + β · NCKD), equation 7 of the paper, mean over the batch.

    student_logits, teacher_logits: (B, C); target: (B,) classes. TCKD: the divergence of the pair
    (p_target, 1 − p_target). NCKD: of the distributions over all classes but the target.
    Two classes have no second part: it is 0.
    """
    z_s, z_t = tame(student_logits, teacher_logits)
    z_s, z_t = z_s / temperature, z_t / temperature
    here = is_target(z_s, target)
    tckd = divergence(_pair(z_s, here), _pair(z_t, here))
    nckd = divergence(z_s.masked_fill(here, FLOOR), z_t.masked_fill(here, FLOOR))
    return (alpha * tckd + beta * nckd).mean() * temperature**2


def _pair(logits: Tensor, here: Tensor) -> Tensor:
    """The logits (B, 2) of the target and of all others together."""
    others = logits.masked_fill(here, FLOOR).logsumexp(1)
    return torch.stack([logits[here], others], 1)


def _preset(
    title: str, source: str, beta: float, training: dict[str, Any], *pair: str, **params: float
) -> Preset:
    term = Term(method="dkd", params={"alpha": 1.0, "beta": beta, **params})
    return recipe(title, source, term, training, *pair)


def _cifar(teacher: str, student: str, beta: float, training: dict[str, Any] = CIFAR_100) -> Preset:
    return _preset(
        f"CIFAR-100, {teacher} → {student}",
        f"mdistiller, configs/cifar100/dkd: CE 1, α 1, β {beta:g}, T 4, warm-up 20",
        beta,
        training,
        teacher,
        student,
    )


_IMAGENET = {"temperature": 1.0, "warmup_epochs": 1.0}


class Method(methods.Method):
    title = "Decoupled knowledge distillation"
    paper = "Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation (CVPR 2022)"
    paper_url = "https://arxiv.org/abs/2203.08679"
    formula = "T² · ( α · KL(target or not) + β · KL(among the non-targets) )"
    summary = (
        "Splits kd in two: how sure the teacher is of the right class, and how the wrong ones compare; the "
        "second, which kd suppresses for sure teachers, gets its own weight. Needs one right class a sample, "
        "so there is no multi-label form."
    )
    needs = ("logits", "labels")
    presets = (
        _preset("CIFAR-100", "mdistiller, configs/cifar100/dkd: β 8 for most pairs", 8.0, CIFAR_100),
        _cifar("resnet56", "resnet20", 2.0),
        _cifar("resnet110", "resnet32", 2.0),
        _cifar("resnet32x4", "resnet8x4", 8.0),
        _cifar("vgg13", "vgg8", 6.0),
        _cifar("wrn-40-2", "wrn-16-2", 6.0),
        _cifar("wrn-40-2", "wrn-40-1", 6.0),
        _cifar("vgg13", "mobilenetv2-half", 6.0, CIFAR_100_LIGHT),
        _cifar("wrn-40-2", "shufflenetv1", 8.0, CIFAR_100_LIGHT),
        _cifar("resnet32x4", "shufflenetv1", 8.0, CIFAR_100_LIGHT),
        _cifar("resnet32x4", "shufflenetv2", 8.0, CIFAR_100_LIGHT),
        _preset(
            "ImageNet, ResNet-34 → ResNet-18",
            "mdistiller, configs/imagenet/r34_r18: T 1, β 0.5, warm-up 1",
            0.5,
            IMAGENET,
            "torchvision/resnet34",
            "torchvision/resnet18",
            **_IMAGENET,
        ),
        _preset(
            "ImageNet, ResNet-50 → MobileNetV1",
            "mdistiller, configs/imagenet/r50_mv1: T 1, β 2, warm-up 1; timm's MobileNetV1 for theirs",
            2.0,
            IMAGENET,
            "torchvision/resnet50",
            "timm/mobilenetv1_100",
            **_IMAGENET,
        ),
    )

    class Params(Strict):
        alpha: float = Field(1.0, ge=0, le=1000, title="α", description="Weight of the target's part (TCKD).")
        beta: float = Field(
            8.0, ge=0, le=1000, title="β", description="Weight of the non-targets' part (NCKD)."
        )
        temperature: float = Field(
            4.0, ge=0.05, le=100, title="Temperature", description="4 for CIFAR-100, 1 for ImageNet."
        )
        warmup_epochs: float = Field(
            20.0,
            ge=0,
            le=10_000,
            title="Warm-up epochs",
            description="Over which the term grows to its weight; at most the whole run is spent on it.",
        )

    params: Params

    def forward(self, step: methods.Step) -> Tensor:
        p = self.params
        value = loss(
            step.student_logits,
            step.teacher_logits,
            target=step.labels,
            alpha=p.alpha,
            beta=p.beta,
            temperature=p.temperature,
        )
        return value * self.warmth(step)

    def warmth(self, step: methods.Step) -> float:
        """min((epoch + 1) / warm-up, 1): the authors count epochs from one."""
        epochs = self.params.warmup_epochs
        return min((int(step.epoch) + 1) / epochs, 1.0) if epochs else 1.0

    def dials(self, step: methods.Step) -> dict[str, Tensor | float]:
        return {"temperature": self.params.temperature, "warm-up": self.warmth(step)}
