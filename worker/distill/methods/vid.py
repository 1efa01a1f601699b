"""VID: variational information distillation. Ahn et al. 2019, arXiv 1904.05835."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from worker.distill import methods
from worker.distill.bridge import meet, to_map
from worker.distill.methods._features import SeveralPairs, read_pairs, several_pairs, wide
from worker.distill.methods._recipes import repdistiller, repdistiller_vgg
from worker.distill.spec import Term

EPS = 1e-5  # the smallest variance
FLAGS = "-r 1 -a 0 -b 1"


def loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    regressor: Callable[[Tensor], Tensor],
    log_scale: Tensor,
    eps: float = EPS,
) -> Tensor:
    """½ · mean[ (μ(F_s) − F_t)² / σ² + log σ² ], σ²_c = log(1 + exp(α_c)) + ε: equation 5 of the paper.

    student_feature (B, C_s, H, W), teacher_feature (B, C_t, H', W'); the larger map is average-pooled.
    regressor μ: (B, C_s, h, w) → (B, C_t, h, w), log_scale α: (C_t,), both learned. The teacher's
    negative log-likelihood without its constant: it may be negative, and is not 0 for equal features.
    """
    student, teacher = meet(wide(student_feature), wide(teacher_feature))
    alpha = wide(log_scale).view(1, -1, 1, 1)
    variance = torch.logaddexp(alpha, torch.zeros_like(alpha)) + eps
    return 0.5 * ((wide(regressor(student)) - teacher).square() / variance + variance.log()).mean()


def regressor(c_s: int, c_t: int) -> nn.Sequential:
    """Three 1×1 convolutions (B, c_s, H, W) → (B, c_t, H, W), as wide as the teacher in between."""
    return nn.Sequential(
        nn.Conv2d(c_s, c_t, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(c_t, c_t, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(c_t, c_t, 1, bias=False),
    )


class Method(methods.Method):
    title = "Variational information distillation"
    paper = "Ahn et al.: Variational Information Distillation for Knowledge Transfer (CVPR 2019)"
    paper_url = "https://arxiv.org/abs/1904.05835"
    formula = "Σ_layers ½ · mean[ (μ(F_s) − F_t)² / σ²_c + log σ²_c ], μ and σ_c learned"
    summary = (
        "The student's features shall predict the teacher's, through learned maps that also learn how well "
        "each channel can be predicted; what cannot be counts less. Values below 0 are in order."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = (*repdistiller(Term(method="vid"), flags=FLAGS), repdistiller_vgg("vid", 1, FLAGS))

    class Params(SeveralPairs):
        init_pred_var: float = Field(
            5.0, ge=0.01, le=1e4, title="Initial variance", description="Of every channel of the teacher."
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        pairs = several_pairs(pair, self.params)
        self.layouts = read_pairs(pair, pairs)
        v = self.params.init_pred_var - EPS
        alpha = v + math.log(-math.expm1(-v))  # softplus's inverse
        channels = [(ours.channels, theirs.channels) for ours, theirs in self.layouts]
        self.regressors = nn.ModuleList(regressor(c_s, c_t) for c_s, c_t in channels)
        self.log_scales = nn.ParameterList(torch.full((c_t,), alpha) for _, c_t in channels)
        self.student_paths = tuple(student.path for student, _ in pairs)
        self.teacher_paths = tuple(teacher.path for _, teacher in pairs)

    def forward(self, step: methods.Step) -> Tensor:
        total = step.student_logits.new_zeros(())
        for i, (ours, theirs) in enumerate(self.layouts):
            student = to_map(ours, step.student_features[self.student_paths[i]])
            teacher = to_map(theirs, step.teacher_features[self.teacher_paths[i]])
            total = total + loss(student, teacher, regressor=self.regressors[i], log_scale=self.log_scales[i])
        return total
