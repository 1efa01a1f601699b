"""DIST: distillation from a stronger teacher. Huang et al. 2022, arXiv 2205.10536."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from worker.distill import methods
from worker.distill.methods._logits import tame
from worker.distill.methods._recipes import CIFAR_100, CIFAR_100_LIGHT, IMAGENET
from worker.distill.spec import Objective, Preset, Strict, Term

EPS = 1e-8  # the authors': added to the product of the norms


def loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau: float = 1.0,
) -> Tensor:
    """τ² · [β · (1 − mean_b ρ(p_s[b], p_t[b])) + γ · (1 − mean_c ρ(p_s[:, c], p_t[:, c]))], p = softmax(z/τ),
    ρ Pearson's correlation: equations 8 to 10 of the paper.

    student_logits, teacher_logits: (B, C). A batch of one has no relations between samples: the second part
    is 0 then.
    """
    z_s, z_t = tame(student_logits, teacher_logits)
    p_s, p_t = torch.softmax(z_s / tau, 1), torch.softmax(z_t / tau, 1)
    value = beta * (1 - pearson(p_s, p_t).mean())
    if len(p_s) > 1:
        value = value + gamma * (1 - pearson(p_s.T, p_t.T).mean())
    return value * tau**2


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each pair of rows: (N, D), (N, D) → (N,); of a constant row, 0."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    rho: Tensor = (a * b).sum(1) / (norms + EPS)
    return rho


_OBJECTIVE = Objective(terms=[Term(method="dist", weight=2.0)])
_SOURCE = "DIST_KD and torchdistill: CE 1, DIST 2, β = γ = 1, τ = 1"


class Method(methods.Method):
    title = "DIST"
    paper = "Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher (NeurIPS 2022)"
    paper_url = "https://arxiv.org/abs/2205.10536"
    formula = "τ² · [ β · (1 − mean_b ρ over classes) + γ · (1 − mean_c ρ over samples) ], ρ Pearson"
    summary = (
        "The student's probabilities shall correlate with the teacher's, within a sample and within a class, "
        "instead of being equal. For teachers much stronger than the student. Its probabilities are those of "
        "exclusive classes: there is no multi-label form."
    )
    presets = (
        Preset(title="CIFAR-100", source=_SOURCE, objective=_OBJECTIVE, training=CIFAR_100),
        Preset(
            title="CIFAR-100, MobileNetV2 or ShuffleNet student",
            source=_SOURCE,
            objective=_OBJECTIVE,
            training=CIFAR_100_LIGHT,
        ),
        Preset(title="ImageNet", source=_SOURCE, objective=_OBJECTIVE, training=IMAGENET),
    )

    class Params(Strict):
        beta: float = Field(
            1.0, ge=0, le=1000, title="β", description="Weight of the relation within a sample."
        )
        gamma: float = Field(
            1.0, ge=0, le=1000, title="γ", description="Weight of the relation within a class."
        )
        tau: float = Field(1.0, ge=0.05, le=100, title="τ", description="Temperature of the probabilities.")

    params: Params

    def forward(self, step: methods.Step) -> Tensor:
        p = self.params
        return loss(step.student_logits, step.teacher_logits, beta=p.beta, gamma=p.gamma, tau=p.tau)

    def dials(self, step: methods.Step) -> dict[str, Tensor | float]:
        return {"temperature": self.params.tau}
