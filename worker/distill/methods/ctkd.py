"""Curriculum temperature. Li et al. 2023, arXiv 2211.16231."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from worker.distill import methods
from worker.distill.methods import kd
from worker.distill.methods._recipes import CIFAR_100, CIFAR_100_LIGHT
from worker.distill.spec import Objective, Preset, Strict, Term


def loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    theta: Tensor,
    *,
    t_start: float = 1.0,
    t_end: float = 20.0,
    lambda_: float = -1.0,
) -> Tensor:
    """The distillation loss at the learned temperature T = t_start + t_end · σ(θ), equation 8 of the paper.

    student_logits, teacher_logits: (B, C). θ, of one element, gets λ times its gradient: at λ = −1 it climbs
    where the student descends and makes the student's task harder (equations 5 to 7).
    """
    reversed_ = theta.detach() + lambda_ * (theta - theta.detach())  # θ in value, λ times its gradient
    temperature = t_start + t_end * torch.sigmoid(reversed_.squeeze())
    return kd.loss(student_logits, teacher_logits, temperature=temperature)


def curriculum(epoch: float, loops: float) -> float:
    """λ from 0 to −1 along a cosine over the first `loops` epochs: equation 9."""
    return -(1 - math.cos(math.pi * min(epoch / loops, 1.0))) / 2 if loops else -1.0


_OBJECTIVE = Objective(task_weight=0.1, terms=[Term(method="ctkd", weight=0.9)])
_SOURCE = "CTKD, scripts/run_cifar_distill.sh: -r 0.1 -a 0.9, temperature 1 to 21, λ over 10 epochs"


class Method(methods.Method):
    title = "Curriculum temperature"
    paper = "Li et al.: Curriculum Temperature for Knowledge Distillation (AAAI 2023)"
    paper_url = "https://arxiv.org/abs/2211.16231"
    formula = "KD at T = 1 + 20·σ(θ); θ learned through a gradient reversal, λ from 0 to −1"
    summary = (
        "The temperature is learned, against the student: easy at first, then as hard as it can be made. "
        "Saves the search for a temperature. Written for one label a sample; multi-label data need kd."
    )
    presets = (
        Preset(title="CIFAR-100", source=_SOURCE, objective=_OBJECTIVE, training=CIFAR_100),
        Preset(
            title="CIFAR-100, MobileNetV2 or ShuffleNet student",
            source=_SOURCE,
            objective=_OBJECTIVE,
            training=CIFAR_100_LIGHT,
        ),
    )

    class Params(Strict):
        t_start: float = Field(
            1.0, gt=0, le=100, title="Lowest temperature", description="T where θ is far below 0."
        )
        t_end: float = Field(
            20.0, gt=0, le=100, title="Range of the temperature", description="T lies within this above it."
        )
        loops: float = Field(
            10.0,
            ge=0,
            le=10_000,
            title="Curriculum epochs",
            description="Over which the reversal grows to its full strength; 0: from the start.",
        )

    params: Params

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.theta = nn.Parameter(torch.ones(1))  # the authors' start: T = 15.6

    def forward(self, step: methods.Step) -> Tensor:
        return loss(
            step.student_logits,
            step.teacher_logits,
            self.theta,
            t_start=self.params.t_start,
            t_end=self.params.t_end,
            lambda_=curriculum(step.epoch, self.params.loops),
        )

    def dials(self, step: methods.Step) -> dict[str, Tensor | float]:
        temperature = self.params.t_start + self.params.t_end * torch.sigmoid(self.theta.detach())
        return {
            "temperature": temperature.squeeze(),
            "reversal": curriculum(step.epoch, self.params.loops),
        }
