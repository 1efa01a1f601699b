"""MLLD: multi-level logit distillation. Jin et al. 2023, CVPR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from worker.distill import methods
from worker.distill.methods._features import wide
from worker.distill.methods._logits import divergence, tame
from worker.distill.methods._recipes import CIFAR_100
from worker.distill.spec import Objective, Preset, SpecError, Strict, Term

TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def loss(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Tensor:
    """Σ_T [instances (weak, masked) + instances (strong) + batch (weak, masked) + classes (weak, masked)]:
    equations 3 to 9 of the paper; all logits (B, C), weak and strong views of the same samples.

    A mask keeps the half of the samples (of the classes) that the teacher is less sure of. The authors' code
    multiplies sums that are already reduced by the mask's mean, and takes the weak view for the strong one
    at T = 2 and 6; here the masks choose samples and classes, and the strong view is the strong view.
    """
    weak, strong = (student_weak, teacher_weak), (student_strong, teacher_strong)
    unsure, rare = masks(teacher_weak)
    value = torch.zeros_like(unsure[0])
    for t in temperatures:
        value = value + kd_loss(*weak, temperature=t, mask=unsure) + kd_loss(*strong, temperature=t)
        p_s, p_t = _softened(*weak, t)  # once for samples and classes
        value = value + _relations(p_s, p_t, unsure) + _relations(p_s.T, p_t.T, rare)
    return value


def masks(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) samples and (C,) classes whose confidence is at most the median, as zeros and ones."""
    p = torch.softmax(wide(teacher_logits), 1)
    confidence, mass = p.amax(1), p.sum(0)
    return _lower_half(confidence), _lower_half(mass)


def _lower_half(values: Tensor) -> Tensor:
    return (values <= values.quantile(0.5)).to(values.dtype)


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Instances: T² · mean_b m_b · KL(softmax(z_t/T) ‖ softmax(z_s/T)), equation 3; logits (B, C), m (B,)."""
    z_s, z_t = tame(student_logits, teacher_logits)
    each = divergence(z_s / temperature, z_t / temperature)
    return (each if mask is None else each * mask).mean() * temperature**2


def bc_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Batch: Σ_b m_b ‖(P_t P_tᵀ − P_s P_sᵀ)_b‖² / B, P = softmax(z/T), equations 5 and 6."""
    p_s, p_t = _softened(student_logits, teacher_logits, temperature)
    return _relations(p_s, p_t, mask)


def cc_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Classes: Σ_c m_c ‖(P_tᵀ P_t − P_sᵀ P_s)_c‖² / C, P = softmax(z/T), equations 7 and 8."""
    p_s, p_t = _softened(student_logits, teacher_logits, temperature)
    return _relations(p_s.T, p_t.T, mask)


def _softened(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> list[Tensor]:
    """softmax(z/T) of both: (B, C), (B, C)."""
    return [torch.softmax(z / temperature, 1) for z in tame(student_logits, teacher_logits)]


def _relations(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Σ over the (masked) rows of ‖(T Tᵀ − S Sᵀ)_n‖², divided by the number of rows: (N, D), (N, D) → ()."""
    each = ((teacher @ teacher.T - student @ student.T) ** 2).sum(1)
    return (each if mask is None else each * mask).mean()


_OBJECTIVE = Objective(task_weight=0.1, terms=[Term(method="mlld", weight=9.0)])
# The light students train twice as long; their rate drops at the same epochs, 150, 180 and 210 of 480.
_LONG = CIFAR_100 | {"epochs": 480, "milestones": [0.3125, 0.375, 0.4375]}


def _preset(
    title: str, rate: float, training: dict[str, Any], teacher: str = "", student: str = ""
) -> Preset:
    return Preset(
        title=title,
        source="the authors' configs/cifar100/ours; CE 0.1 on both views; weight 9 as in "
        "logit-standardization-KD (the default in the authors' cfg.py is 0.9)",
        teacher=teacher,
        student=student,
        objective=_OBJECTIVE,
        training=training | {"learning_rate": rate},
    )


class Method(methods.Method):
    title = "Multi-level logit distillation"
    paper = "Jin, Wang, Lin: Multi-Level Logit Distillation (CVPR 2023)"
    paper_url = "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"
    formula = "Σ_T [ KD weak + KD strong + ‖P_t P_tᵀ − P_s P_sᵀ‖² / B + ‖P_tᵀ P_t − P_sᵀ P_s‖² / C ]"
    summary = (
        "Logits matched as instances, as relations within the batch and as relations between classes, at "
        "five temperatures and on a weakly and a strongly augmented view. Two student passes a step. Its "
        "relations are those of exclusive classes: there is no multi-label form."
    )
    needs = ("logits", "views")
    presets = (
        _preset("CIFAR-100", 0.025, CIFAR_100),
        _preset("CIFAR-100, ShuffleNet student", 0.01, _LONG),
        _preset("CIFAR-100, MobileNetV2 student", 0.0025, _LONG),
        _preset("CIFAR-100, wrn-40-2 → shufflenetv1", 0.0025, _LONG, "wrn-40-2", "shufflenetv1"),
    )

    class Params(Strict):
        temperatures: list[float] = Field(
            list(TEMPERATURES),
            min_length=1,
            max_length=20,
            title="Temperatures",
            description="All parts are summed over these, each at least 0.05.",
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        if low := [t for t in self.params.temperatures if t < 0.05]:
            raise SpecError("temperatures", low[0], "a temperature is too low.", "Use 0.05 or more.")

    def forward(self, step: methods.Step) -> Tensor:
        if step.strong is None:
            problem = "two views of each image are compared, and there is one."
            fix = "Hand over the logits of a strongly augmented view."
            raise SpecError("step.strong", None, problem, fix)
        return loss(
            step.student_logits,
            step.strong.student,
            step.teacher_logits,
            step.strong.teacher,
            temperatures=self.params.temperatures,
        )
