"""FSP: flow of the solution procedure. Yim et al. 2017 (CVPR), A Gift from Knowledge Distillation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

from worker.distill import methods
from worker.distill.bridge import meet, to_map
from worker.distill.methods._features import SeveralPairs, read_pairs, several_pairs, wide
from worker.distill.methods._recipes import CIFAR_100
from worker.distill.spec import Objective, Preset, Term

SOURCE = "RepDistiller, train_student.py: -r 1 -a 0 -b 50, 30 epochs first; networks of equal channels"


def cifar_100(weight: float, title: str, source: str) -> Preset:
    objective = Objective(terms=[Term(method="fsp", weight=weight)])
    return Preset(title=title, source=source, objective=objective, training=CIFAR_100)


def loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Σ over consecutive layers of mean( (G_s − G_t)² ), G = mean_hw F_a F_bᵀ.

    Equations 1 and 2 of the paper, as means over all elements (RepDistiller's convention). student_features,
    teacher_features: two or more maps (B, C_i, H_i, W_i), with the same C_i on both sides. Of each two the
    larger is average-pooled.
    ValueError for fewer than two layers, or unequal numbers of layers or channels.
    """
    ours, theirs = [f.shape[1] for f in student_features], [f.shape[1] for f in teacher_features]
    if len(ours) < 2 or ours != theirs:
        raise ValueError(f"it takes two layers or more of equal channels, not {ours} and {theirs}")
    flows = zip(_flows(student_features), _flows(teacher_features), strict=True)
    total = wide(student_features[0]).new_zeros(())
    for student, teacher in flows:
        total = total + (student - teacher).square().mean()
    return total


def _flows(features: Sequence[Tensor]) -> list[Tensor]:
    """(B, C_a, H, W), (B, C_b, …), … → (B, C_a, C_b), …"""
    flows = []
    for bottom, top in pairwise(features):
        a, b = (f.flatten(2) for f in meet(wide(bottom), wide(top)))
        flows.append(a @ b.transpose(1, 2) / a.shape[2])
    return flows


class Method(methods.Method):
    title = "Flow of the solution procedure"
    paper = "Yim et al.: A Gift from Knowledge Distillation (CVPR 2017)"
    paper_url = "https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html"
    formula = "Σ_layers mean( (G_s − G_t)² ), G = mean over positions of F_a · F_bᵀ, a and b consecutive"
    summary = (
        "Initialises the student: how one stage's channels follow from the stage's before shall be as in "
        "the teacher; afterwards the student trains on without it. The authors need equal channels; where "
        "they differ, learned 1×1 maps of the student's features are compared. Large weights diverge."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    prelude_only = True
    presets = (
        # Its first stage leaves -b out, and the main part has no such term: the results belong to weight 1.
        cifar_100(1, "CIFAR-100", f"{SOURCE}; the factor 50 as its code applies it, which is not at all"),
        cifar_100(50, "CIFAR-100, weight 50", f"{SOURCE}; the factor 50 taken at its word"),
    )

    class Params(SeveralPairs):
        prelude_epochs: int = Field(
            30, ge=1, le=1000, title="First stage", description="Epochs before training on the labels."
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        pairs = several_pairs(pair, self.params, least=2)
        self.layouts = read_pairs(pair, pairs)
        self.regressors = nn.ModuleList(
            nn.Identity()
            if ours.channels == theirs.channels
            else nn.Conv2d(ours.channels, theirs.channels, 1)
            for ours, theirs in self.layouts
        )
        self.student_paths = tuple(student.path for student, _ in pairs)
        self.teacher_paths = tuple(teacher.path for _, teacher in pairs)

    @property
    def prelude_epochs(self) -> int:
        return self.params.prelude_epochs

    def prelude(self, step: methods.Step) -> Tensor:
        student, teacher = [], []
        for i, (ours, theirs) in enumerate(self.layouts):
            student.append(self.regressors[i](to_map(ours, step.student_features[self.student_paths[i]])))
            teacher.append(to_map(theirs, step.teacher_features[self.teacher_paths[i]]))
        return loss(student, teacher)
