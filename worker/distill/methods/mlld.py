"""MLLD: multi-level logit distillation. Jin et al. 2023, CVPR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from worker.distill import methods
from worker.distill.methods._logits import divergence, tame
from worker.distill.methods._recipes import CIFAR_100, CIFAR_100_LIGHT
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
    weak, strong = tame(student_weak, teacher_weak), tame(student_strong, teacher_strong)
    unsure, rare = masks(weak[1])
    value = weak[0].new_zeros(())
    for t in temperatures:
        value = value + kd_loss(*weak, temperature=t, mask=unsure) + kd_loss(*strong, temperature=t)
        value = value + bc_loss(*weak, temperature=t, mask=unsure)
        value = value + cc_loss(*weak, temperature=t, mask=rare)
    return value


def masks(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) samples and (C,) classes whose confidence is at most the median, as zeros and ones."""
    p = torch.softmax(teacher_logits, 1)
    confidence, mass = p.amax(1), p.sum(0)
    return _lower_half(confidence), _lower_half(mass)


def _lower_half(values: Tensor) -> Tensor:
    return (values <= values.quantile(0.5)).to(values.dtype)


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Instances: T² · mean_b m_b · KL(softmax(z_t/T) ‖ softmax(z_s/T)), equation 3; logits (B, C), m (B,)."""
    each = divergence(student_logits / temperature, teacher_logits / temperature)
    return (each if mask is None else each * mask).mean() * temperature**2


def bc_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Batch: Σ_b m_b ‖(P_t P_tᵀ − P_s P_sᵀ)_b‖² / B, P = softmax(z/T), equations 5 and 6."""
    p_s, p_t = torch.softmax(student_logits / temperature, 1), torch.softmax(teacher_logits / temperature, 1)
    return _rows(p_t @ p_t.T - p_s @ p_s.T, mask)


def cc_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Classes: Σ_c m_c ‖(P_tᵀ P_t − P_sᵀ P_s)_c‖² / C, P = softmax(z/T), equations 7 and 8."""
    p_s, p_t = torch.softmax(student_logits / temperature, 1), torch.softmax(teacher_logits / temperature, 1)
    return _rows(p_t.T @ p_t - p_s.T @ p_s, mask)


def _rows(difference: Tensor, mask: Tensor | None) -> Tensor:
    """Σ over (masked) rows of their squares, divided by the number of rows: (N, N) → ()."""
    each = (difference**2).sum(1)
    return (each if mask is None else each * mask).mean()


_OBJECTIVE = Objective(task_weight=0.1, terms=[Term(method="mlld", weight=9.0)])
_SOURCE = "the authors' CIFAR-100 configs: CE 0.1 on both views, weight 9, T in {4, 3, 5, 2, 6}"


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
        Preset(
            title="CIFAR-100",
            source=_SOURCE,
            objective=_OBJECTIVE,
            training=CIFAR_100 | {"learning_rate": 0.025},
        ),
        Preset(
            title="CIFAR-100, MobileNetV2 or ShuffleNet student",
            source=_SOURCE,
            objective=_OBJECTIVE,
            training=CIFAR_100_LIGHT,
        ),
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
        assert step.strong is not None  # "views" are what it needs
        return loss(
            step.student_logits,
            step.strong.student,
            step.teacher_logits,
            step.strong.teacher,
            temperatures=self.params.temperatures,
        )
