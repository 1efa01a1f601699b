"""FT: factor transfer. Kim, Park & Kwak 2018, arXiv 1802.04977."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import meet, to_map
from worker.distill.methods._features import LastPair, last_pair, read, wide
from worker.distill.methods._norm import BatchNorm
from worker.distill.methods._recipes import IMAGENET, repdistiller
from worker.distill.spec import Objective, Preset, Term


def loss(student_factor: Tensor, teacher_factor: Tensor, *, p: int = 1, p1: int | None = None) -> Tensor:
    """mean over all elements of |F_s/‖F_s‖₂ − F_t/‖F_t‖₂|^p, vectorised by sample: equation 3 of the paper.

    student_factor, teacher_factor: (B, m, H, W) of equal channels; the larger map is average-pooled. With p1
    the vectors are mean_c F^p1, of H·W numbers, as RepDistiller has it (p1 = 2), and the channels may
    differ. A factor of zeros has no direction: it counts as zeros. ValueError for unequal channels.
    """
    if p1 is None and student_factor.shape[1] != teacher_factor.shape[1]:
        raise ValueError(f"channels differ: {student_factor.shape[1]}, {teacher_factor.shape[1]}")
    student, teacher = meet(wide(student_factor), wide(teacher_factor))
    difference = (_direction(student, p1) - _direction(teacher, p1)).abs()
    return (difference if p == 1 else difference.pow(p)).mean()


def _direction(factor: Tensor, p1: int | None) -> Tensor:
    """(B, m, H, W) → (B, m·H·W), or (B, H·W) with p1, of unit length."""
    vector = (factor if p1 is None else factor.pow(p1).mean(1)).flatten(1)
    norm: Tensor = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
    return vector / norm.clamp_min(1e-12).masked_fill(norm == 0, 1)


class Paraphraser(nn.Module):
    """(B, C, H, W) → factors (B, m, H, W) → (B, C, H, W): three convolutions and three transposed ones."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d
        self.encoder = _stack(nn.Conv2d, [channels, channels, factors, factors], norm=False)
        self.decoder = _stack(up, [factors, factors, channels, channels], norm=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.decoder(self.encoder(x)))


def translator(channels: int, factors: int) -> nn.Sequential:
    """(B, C, H, W) → (B, m, H, W), the student's counterpart of the encoder."""
    return _stack(nn.Conv2d, [channels, channels, factors, factors], norm=True)


def _stack(kind: type[nn.Conv2d | nn.ConvTranspose2d], widths: list[int], *, norm: bool) -> nn.Sequential:
    parts: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        parts += [kind(c_in, c_out, 3, padding=1)]
        parts += [BatchNorm(c_out)] if norm else []
        parts += [nn.LeakyReLU(0.1)]
    return nn.Sequential(*parts)


class Method(methods.Method):
    title = "Factor transfer"
    paper = (
        "Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer (NIPS 2018)"
    )
    paper_url = "https://arxiv.org/abs/1802.04977"
    formula = "mean | T(F_s) / ‖T(F_s)‖ − P(F_t) / ‖P(F_t)‖ |^p, P an autoencoder's code, T learned"
    summary = (
        "First an autoencoder learns to say the teacher's last features in fewer channels; then, with it "
        "fixed, the student learns to translate its own features into these factors. Any two networks."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = (
        *repdistiller(Term(method="ft", weight=200, params={"p1": 2}), flags="-r 1 -a 0 -b 200"),
        Preset(
            title="ImageNet, ResNet-34 → ResNet-18",
            source="torchdistill, rrpr2020/ft-resnet18_from_resnet34.yaml, the paper's form: top-1 71.56",
            teacher="torchvision/resnet34",
            student="torchvision/resnet18",
            objective=Objective(terms=[Term(method="ft", weight=1000, params={"prelude_epochs": 1})]),
            training=IMAGENET | {"epochs": 90, "milestones": [1 / 3, 2 / 3]},
        ),
    )

    class Params(LastPair):
        p: int = Field(1, ge=1, le=2, title="Power", description="Of the differences: 1 or 2.")
        p1: int = Field(
            0,
            ge=0,
            le=4,
            title="Power before pooling channels",
            description="0: factors are compared whole, as in the paper. Otherwise only their mean over "
            "channels of this power is, as RepDistiller has it with 2.",
        )
        k: float = Field(
            0.5, gt=0, le=4, title="Factor rate", description="Channels of the factors ÷ the teacher's."
        )
        prelude_epochs: int = Field(
            30, ge=1, le=1000, title="First stage", description="Epochs in which the autoencoder learns."
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        student, teacher = last_pair(pair, self.params)
        self.student_layout = read(pair, student, "student_layer")
        self.teacher_layout = read(pair, teacher, "teacher_layer")
        factors = max(1, int(self.params.k * self.teacher_layout.channels))
        self.paraphraser = Paraphraser(self.teacher_layout.channels, factors)
        self.translator = translator(self.student_layout.channels, factors)
        self.student_paths, self.teacher_paths = (student.path,), (teacher.path,)

    @property
    def prelude_epochs(self) -> int:
        return self.params.prelude_epochs

    def prelude(self, step: methods.Step) -> Tensor:
        """Equation 1 of the paper: mean of (decoded − F_t)²."""
        teacher = self._teacher(step)
        return F.mse_loss(wide(self.paraphraser(teacher)), teacher)

    def forward(self, step: methods.Step) -> Tensor:
        student = to_map(self.student_layout, step.student_features[self.student_paths[0]])
        with torch.no_grad():
            factor = self.paraphraser.encoder(self._teacher(step))
        return loss(self.translator(student), factor, p=self.params.p, p1=self.params.p1 or None)

    def _teacher(self, step: methods.Step) -> Tensor:
        return wide(to_map(self.teacher_layout, step.teacher_features[self.teacher_paths[0]]))
