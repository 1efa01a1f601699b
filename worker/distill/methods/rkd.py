"""RKD: relational knowledge distillation. Park et al. 2019, arXiv 1904.05068."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from worker.distill import methods
from worker.distill.methods._features import LastPair, last_pair, read, wide
from worker.distill.methods._recipes import repdistiller
from worker.distill.spec import Term

AT_ONCE = 2**24  # numbers of a piece of the triplets: 64 MB in fp32
CLOSEST = 1e-6  # distances below count as this, without a gradient


def loss(
    student_embedding: Tensor, teacher_embedding: Tensor, *, w_d: float = 25.0, w_a: float = 50.0
) -> Tensor:
    """w_d · mean_ij ℓ(d_s, d_t) + w_a · mean_ijk ℓ(cos_s, cos_t): equations 5 to 10 of the paper.

    ℓ is Huber's loss with δ = 1; d_ij = ‖e_i − e_j‖ / its mean over i ≠ j; cos_ijk the cosine of the angle
    at e_i between e_j and e_k. student_embedding (B, D_s), teacher_embedding (B, D_t); maps are flattened.
    Where two points coincide there is no direction: the cosine is 0 and nothing flows back through it. A
    batch of one has no relations: zero, with a graph. ValueError for batches of unequal size.
    """
    if len(student_embedding) != len(teacher_embedding):
        raise ValueError(f"batch sizes differ: {len(student_embedding)}, {len(teacher_embedding)}")
    student, teacher = wide(student_embedding).flatten(1), wide(teacher_embedding).flatten(1).detach()
    if len(student) == 1:
        return (student * 0).sum()
    distance = F.smooth_l1_loss(_distances(student), _distances(teacher))
    return w_d * distance + w_a * _angle_loss(student, teacher)


def _distances(e: Tensor) -> Tensor:
    """(B, D) → (B, B), of mean 1 off the diagonal."""
    # Not through the Gram matrix, in which close points far from the origin are lost.
    d = torch.cdist(e, e, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(CLOSEST)
    d = d * (1 - torch.eye(len(e), dtype=e.dtype, device=e.device))
    return d / (d.sum() / (len(e) * (len(e) - 1)))


def _angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all B³ triplets. Pieces of a large batch are computed anew in the backward pass."""
    count = len(student)
    size = max(1, AT_ONCE // (count * max(count, student.shape[1], teacher.shape[1])))
    if size >= count:
        return _angle_sum(student, teacher, 0, count) / count**3
    pieces = [
        checkpoint(_angle_sum, student, teacher, i, i + size, use_reentrant=False, preserve_rng_state=False)
        for i in range(0, count, size)
    ]
    return torch.stack(pieces).sum() / count**3


def _angle_sum(student: Tensor, teacher: Tensor, first: int, last: int) -> Tensor:
    """Sum over the triplets whose angle lies at one of the points first … last − 1."""
    return F.smooth_l1_loss(_cosines(student, first, last), _cosines(teacher, first, last), reduction="sum")


def _cosines(e: Tensor, first: int, last: int) -> Tensor:
    """(B, D) → (last − first, B, B)"""
    towards = e[None] - e[first:last, None]  # (A, B, D)
    norm = torch.linalg.vector_norm(towards, dim=2, keepdim=True)
    unit: Tensor = towards / norm.clamp_min(1e-12).masked_fill(norm == 0, 1)
    return unit @ unit.transpose(1, 2)


class Method(methods.Method):
    title = "Relational knowledge distillation"
    paper = "Park et al.: Relational Knowledge Distillation (CVPR 2019)"
    paper_url = "https://arxiv.org/abs/1904.05068"
    formula = "w_d · mean ℓ(d_s, d_t) + w_a · mean ℓ(cos_s, cos_t), ℓ Huber's loss; distances d, angles cos"
    summary = (
        "Distances between samples and the angles they form shall be the teacher's, up to scale. No learned "
        "map, any two widths; angles cost the batch size cubed, and a batch of one says nothing."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = repdistiller(Term(method="rkd"), flags="-r 1 -a 0 -b 1 (distances 25, angles 50)")

    class Params(LastPair):
        w_d: float = Field(
            25.0, ge=0, le=1e4, title="Weight of distances", description="Between two samples."
        )
        w_a: float = Field(50.0, ge=0, le=1e4, title="Weight of angles", description="Among three samples.")

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        student, teacher = last_pair(pair, self.params)
        read(pair, student, "student_layer")
        read(pair, teacher, "teacher_layer")
        self.student_vectors, self.teacher_vectors = (student.path,), (teacher.path,)

    def forward(self, step: methods.Step) -> Tensor:
        student = step.student_vectors[self.student_vectors[0]]
        teacher = step.teacher_vectors[self.teacher_vectors[0]]
        return loss(student, teacher, w_d=self.params.w_d, w_a=self.params.w_a)
