"""SP: similarity-preserving distillation. Tung & Mori 2019, arXiv 1907.09682."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.methods._features import LastPair, last_pair, wide
from worker.distill.methods._recipes import repdistiller
from worker.distill.spec import Term


def loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """‖G_s − G_t‖²_F / B², G the B × B Gram matrix with rows of unit L2 norm: equations 2 to 4 of the paper.

    student_feature (B, …), teacher_feature (B, …): of any shapes, only what samples have in common counts.
    A batch of one has no relations: zero, with a graph. ValueError for batches of unequal size.
    """
    if len(student_feature) != len(teacher_feature):
        raise ValueError(f"batch sizes differ: {len(student_feature)}, {len(teacher_feature)}")
    if len(student_feature) == 1:
        return (wide(student_feature) * 0).sum()
    return F.mse_loss(_similarity(student_feature), _similarity(teacher_feature))


def _similarity(feature: Tensor) -> Tensor:
    """(B, …) → (B, B)"""
    rows = wide(feature).flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


class Method(methods.Method):
    title = "Similarity-preserving distillation"
    paper = "Tung, Mori: Similarity-Preserving Knowledge Distillation (ICCV 2019)"
    paper_url = "https://arxiv.org/abs/1907.09682"
    formula = "‖G_s − G_t‖²_F / B², G = rows of F · Fᵀ, each of unit L2 norm"
    summary = (
        "Samples that look alike to the teacher shall look alike to the student. No learned map and any two "
        "shapes, also between different families; larger batches say more, a batch of one says nothing."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = repdistiller(Term(method="sp", weight=3000), flags="-r 1 -a 0 -b 3000")

    class Params(LastPair):
        """The two layers; empty: the last before pooling."""

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        student, teacher = last_pair(pair, self.params)
        self.student_paths, self.teacher_paths = (student.path,), (teacher.path,)

    def forward(self, step: methods.Step) -> Tensor:
        return loss(
            step.student_features[self.student_paths[0]], step.teacher_features[self.teacher_paths[0]]
        )
