"""PKT: probabilistic knowledge transfer. Passalis & Tefas 2018, arXiv 1803.10837."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.distill import methods
from worker.distill.methods._features import LastPair, last_pair, read, wide
from worker.distill.methods._recipes import repdistiller
from worker.distill.spec import Term


def loss(student_embedding: Tensor, teacher_embedding: Tensor, *, eps: float = 1e-7) -> Tensor:
    """mean_ij p_t log((p_t + ε) / (p_s + ε)), p = rows of (1 + cos(e_i, e_j)) / 2 that sum to one.

    Section 3 of the paper with the cosine kernel, as a mean over the B × B matrix.
    student_embedding (B, D_s), teacher_embedding (B, D_t); maps are flattened. cos with a vector of zeros
    is 0. A batch of one has no relations: zero, with a graph. ValueError for batches of unequal size.
    """
    if len(student_embedding) != len(teacher_embedding):
        raise ValueError(f"batch sizes differ: {len(student_embedding)}, {len(teacher_embedding)}")
    if len(student_embedding) == 1:
        return (wide(student_embedding) * 0).sum()
    p_s, p_t = _affinities(student_embedding, eps), _affinities(teacher_embedding, eps)
    return (p_t * ((p_t + eps) / (p_s + eps)).log()).mean()


def _affinities(embedding: Tensor, eps: float) -> Tensor:
    """(B, …) → (B, B), each row a distribution over the batch."""
    e = wide(embedding).flatten(1)
    # vector_norm has a gradient at zero (zero), a root of squares has none
    unit: Tensor = e / (torch.linalg.vector_norm(e, dim=1, keepdim=True) + eps)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


class Method(methods.Method):
    title = "Probabilistic knowledge transfer"
    paper = "Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer (ECCV 2018)"
    paper_url = "https://arxiv.org/abs/1803.10837"
    formula = "mean_ij p_t log(p_t / p_s), p_ij = (1 + cos(f_i, f_j)) / 2, each row normalised"
    summary = (
        "Which samples lie close together is a distribution, and the student's shall be the teacher's. No "
        "learned map, any two widths; a batch of one says nothing."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = repdistiller(Term(method="pkt", weight=30000), flags="-r 1 -a 0 -b 30000")

    class Params(LastPair):
        """The two layers, whose pooled outputs are compared; empty: the last ones."""

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        student, teacher = last_pair(pair, self.params)
        read(pair, student, "student_layer")
        read(pair, teacher, "teacher_layer")
        self.student_vectors, self.teacher_vectors = (student.path,), (teacher.path,)

    def forward(self, step: methods.Step) -> Tensor:
        return loss(
            step.student_vectors[self.student_vectors[0]], step.teacher_vectors[self.teacher_vectors[0]]
        )
