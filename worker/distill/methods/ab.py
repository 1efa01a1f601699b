"""AB: activation boundaries. Heo et al. 2019, arXiv 1811.03233."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from worker.distill import methods
from worker.distill.methods._features import Connector, SeveralPairs, before_activations, wide
from worker.distill.methods._recipes import presets_before_activations, repdistiller
from worker.distill.spec import Term

SCALE = 3 / 1000  # RepDistiller's, on each layer's sum


def loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, margin: float = 1.0
) -> Tensor:
    """Σ_i 2^(i−n+1) · 3/1000 / B · Σ_elements [ (s+m)² 1(s > −m, t ≤ 0) + (s−m)² 1(s ≤ m, t > 0) ], i < n.

    Equation 6 of the paper, scaled and weighted as RepDistiller does. student_features s and teacher_features
    t: n features (B, …) before their activations, of equal shapes in pairs. ValueError for unequal ones.
    """
    shapes = [[tuple(f.shape) for f in side] for side in (student_features, teacher_features)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"shapes differ: {shapes[0]}, {shapes[1]}")
    last = len(student_features) - 1
    total = wide(student_features[0]).new_zeros(())
    for i, (s, t) in enumerate(zip(student_features, teacher_features, strict=True)):
        total = total + 2.0 ** (i - last) * SCALE * _crossed(wide(s), wide(t), margin) / len(s)
    return total


def _crossed(s: Tensor, t: Tensor, margin: float) -> Tensor:
    """Σ of the squared distances of neurons from the teacher's side of the boundary, with a margin."""
    off = torch.where((t <= 0) & (s > -margin), s + margin, 0.0)
    on = torch.where((t > 0) & (s <= margin), s - margin, 0.0)
    return (off**2).sum() + (on**2).sum()


_TERM, _FLAGS = Term(method="ab", weight=1), "-r 1 -a 0, 30 epochs first"


class Method(methods.Method):
    title = "Activation boundaries"
    paper = (
        "Heo, Lee, Yun, Choi: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden "
        "Neurons (AAAI 2019)"
    )
    paper_url = "https://arxiv.org/abs/1811.03233"
    formula = "Σ_layers 2^(i−n+1) · Σ [ (s+m)² where t ≤ 0 and s > −m; (s−m)² where t > 0 and s ≤ m ]"
    summary = (
        "Initialises the student: before training on the labels, its neurons learn on which side of their "
        "activation the teacher's are. Afterwards the student trains on without it, with kd if you like."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    prelude_only = True
    presets = (
        *repdistiller(_TERM, flags=_FLAGS),
        *presets_before_activations(_TERM, f"RepDistiller, train_student.py and models/: {_FLAGS}"),
    )

    class Params(SeveralPairs):
        margin: float = Field(
            1.0, gt=0, le=100, title="Margin", description="By which a neuron shall be on its side."
        )
        prelude_epochs: int = Field(
            30, ge=1, le=1000, title="First stage", description="Epochs before training on the labels."
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        pairs = before_activations(pair, self.params)
        self.connectors = nn.ModuleList(Connector(pair, *layers) for layers in pairs)
        self.student_paths = tuple(student.path for student, _ in pairs)
        self.teacher_paths = tuple(teacher.path for _, teacher in pairs)

    @property
    def prelude_epochs(self) -> int:
        return self.params.prelude_epochs

    def prelude(self, step: methods.Step) -> Tensor:
        met = [
            connect(step.student_features[ours], step.teacher_features[theirs])
            for connect, ours, theirs in zip(
                self.connectors, self.student_paths, self.teacher_paths, strict=True
            )
        ]
        return loss([s for s, _ in met], [t for _, t in met], margin=self.params.margin)
