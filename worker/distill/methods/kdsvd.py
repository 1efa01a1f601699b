"""KDSVD: singular vectors of the feature maps. Lee, Kim & Song 2018, arXiv 1807.06819."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import to_map
from worker.distill.methods._features import SeveralPairs, read_pairs, several_pairs, wide
from worker.distill.methods._recipes import CIFAR_100
from worker.distill.spec import Objective, Preset, Term

MORE = 3  # singular vectors of the student, beyond k, among which the teacher's are looked for


def loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, k: int = 1) -> Tensor:
    """Σ over consecutive layers of Σ_ij,κ (K_s − K_t)² / B, K_ijκ = exp(−(v_iκ − w_jκ)²/8).

    Section 3 of the paper. student_features, teacher_features: two or more maps (B, C_i, H, W), with the
    same C_i on both sides; sizes may differ. v, w: the k leading right singular vectors of two consecutive
    layers' matrices (H·W × C), times the teacher's singular values of unit norm. Each of the teacher's is
    met by the student's likest among k + 3, with its sign; fewer are compared where a layer has fewer.
    An SVD leaves the teacher's own signs open, and the value depends on them: they are chosen so that a
    vector's sum is not negative. For non-negative maps that is what libraries come to as well.
    Almost equal singular values give a damped gradient instead of an infinite one, zero features none.
    ValueError for fewer than two layers, or unequal numbers of layers or channels.
    """
    ours, theirs = [f.shape[1] for f in student_features], [f.shape[1] for f in teacher_features]
    if len(ours) < 2 or ours != theirs:
        raise ValueError(f"it takes two layers or more of equal channels, not {ours} and {theirs}")
    k = min(k, *(min(f.shape[1], f[0, 0].numel()) for f in (*student_features, *teacher_features)))
    vectors = [
        _aligned(_rows(s), _rows(t), k) for s, t in zip(student_features, teacher_features, strict=True)
    ]
    total = vectors[0][0].new_zeros(())
    for (v_s, v_t), (w_s, w_t) in pairwise(vectors):
        total = total + (_kernel(v_s, w_s) - _kernel(v_t, w_t)).square().sum() / len(v_s)
    return total


def _rows(feature: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W, C)"""
    return wide(feature).flatten(2).transpose(1, 2)


def _kernel(v: Tensor, w: Tensor) -> Tensor:
    """(B, C, k), (B, C', k) → (B, C, C', k)"""
    return torch.exp(-(v[:, :, None] - w[:, None]).square() / 8)


def _aligned(student: Tensor, teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, N, C), (B, N', C) → both sides' vectors (B, C, k), weighted alike."""
    with torch.no_grad():
        v_t = signed(leading(teacher, k))
        sigma = F.normalize(torch.linalg.vector_norm(teacher @ v_t, dim=1, keepdim=True), dim=2)  # (B, 1, k)
    v_s = leading(student, k + MORE)
    cosine = v_s.detach().transpose(1, 2) @ v_t  # (B, k + 3, k)
    best = cosine.abs().argmax(1, keepdim=True)  # (B, 1, k)
    chosen = v_s.gather(2, best.expand(-1, v_s.shape[1], -1)) * cosine.gather(1, best).sign()
    return chosen * sigma, v_t * sigma


def signed(v: Tensor) -> Tensor:
    """Each vector (B, C, k), or its negative, whichever's sum is not negative."""
    return torch.where(v.sum(1, keepdim=True) < 0, -v, v)


def leading(matrix: Tensor, count: int) -> Tensor:
    """(B, N, C) → (B, C, count): right singular vectors, largest singular value first; signs open.

    From the eigenvectors of the smaller Gram matrix. There are min(N, C, count) of them.
    """
    # Singular vectors do not depend on the scale: all matrices are brought to norm 1.
    norm = torch.linalg.matrix_norm(matrix.detach(), keepdim=True)
    matrix = matrix / norm.masked_fill(norm == 0, 1)
    if matrix.shape[1] >= matrix.shape[2]:
        return _eigenvectors(matrix.transpose(1, 2) @ matrix, count)
    v: Tensor = matrix.transpose(1, 2) @ _eigenvectors(matrix @ matrix.transpose(1, 2), count)
    length: Tensor = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return v / length.masked_fill(length == 0, 1)


def _eigenvectors(gram: Tensor, count: int) -> Tensor:
    found: Tensor = Eigenvectors.apply(gram, count)  # type: ignore[no-untyped-call]
    return found


class Eigenvectors(torch.autograd.Function):
    """Symmetric (B, n, n), of trace 1 → (B, n, count): eigenvectors, largest eigenvalue first.

    dv_i = Σ_j v_j (v_jᵀ dG v_i) · d/(d² + ε²), d = λ_i − λ_j: the derivative, damped where eigenvalues are
    within ε, about the square root of the precision, of each other.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, count: int) -> Tensor:
        # Features that are not finite shall be named by whoever watches the losses, not fail here.
        values, vectors = torch.linalg.eigh(gram.nan_to_num())
        leading_first: Tensor = vectors.flip(2)
        ctx.save_for_backward(values.flip(1), leading_first)
        return leading_first[:, :, :count]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        count, epsilon = grad.shape[2], torch.finfo(values.dtype).eps ** 0.5
        d = values[:, None, :count] - values[:, :, None]  # (B, n, count): λ_i − λ_j
        inner = vectors.transpose(1, 2) @ grad * d / (d.square() + epsilon**2)
        flow: Tensor = vectors @ inner @ vectors[:, :, :count].transpose(1, 2)
        return (flow + flow.transpose(1, 2)) / 2, None


class Method(methods.Method):
    title = "Singular vectors"
    paper = "Lee, Kim, Song: Self-supervised Knowledge Distillation Using SVD (ECCV 2018)"
    paper_url = "https://arxiv.org/abs/1807.06819"
    formula = (
        "Σ_layers Σ_ij ( exp(−(v_i − w_j)²/8)_s − exp(−(v_i − w_j)²/8)_t )² / B, v and w singular vectors"
    )
    summary = (
        "Each stage's features are condensed to their leading singular vectors over channels; how those of "
        "consecutive stages relate shall be as in the teacher. Where channels differ, learned 1×1 maps of "
        "the student's features are compared. Two stages at least; a decomposition a step makes it slow."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = (
        Preset(
            title="CIFAR-100",
            source="mdistiller, engine/cfg.py: weight 1; matrices H·W × C as in RepDistiller",
            objective=Objective(terms=[Term(method="kdsvd")]),
            training=CIFAR_100,
        ),
        Preset(
            title="CIFAR-100, ResNet-32x4 → ResNet-8x4",
            source="mdistiller, configs/cifar100/kdsvd.yaml: weight 1; matrices H·W × C as in RepDistiller",
            teacher="resnet32x4",
            student="resnet8x4",
            objective=Objective(terms=[Term(method="kdsvd")]),
            training=CIFAR_100,
        ),
    )

    class Params(SeveralPairs):
        k: int = Field(1, ge=1, le=64, title="Singular vectors", description="Compared of each layer.")

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

    def forward(self, step: methods.Step) -> Tensor:
        student, teacher = [], []
        for i, (ours, theirs) in enumerate(self.layouts):
            student.append(self.regressors[i](to_map(ours, step.student_features[self.student_paths[i]])))
            teacher.append(to_map(theirs, step.teacher_features[self.teacher_paths[i]]))
        return loss(student, teacher, k=self.params.k)
