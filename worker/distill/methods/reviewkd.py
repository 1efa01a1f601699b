"""ReviewKD: knowledge review. Chen et al. 2021, arXiv 2104.09044."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import pool, to_map, to_vector
from worker.distill.methods._features import SeveralPairs, read_pairs, several_pairs, wide
from worker.distill.methods._norm import BatchNorm
from worker.distill.methods._recipes import CIFAR_100, IMAGENET
from worker.distill.spec import Objective, Preset, Term

LEVELS = (4, 2, 1)  # sides of the pooled maps
Size = int | tuple[int, int]  # of a map: the side of a square, or (H, W)


def loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Σ over layers of ( MSE(F_s, F_t) + Σ_l 2^−n MSE(pool_l F_s, pool_l F_t) ) / (1 + Σ 2^−n): HCL.

    Section 3.4 of the paper. student_features, teacher_features: maps (B, C_i, H_i, W_i) of equal shapes, the
    student's after fusion.
    pool_l averages to l × l for every l of 4, 2, 1 below the map's height; n = 1, 2, … counts them.
    ValueError for no layers, or unequal numbers or shapes.
    """
    ours, theirs = [tuple(f.shape) for f in student_features], [tuple(f.shape) for f in teacher_features]
    if not ours or ours != theirs:
        raise ValueError(f"it takes features of equal shapes, not {ours} and {theirs}")
    total = wide(student_features[0]).new_zeros(())
    for student, teacher in zip(student_features, teacher_features, strict=True):
        total = total + _hierarchical(wide(student), wide(teacher))
    return total


def _hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    value, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for side in LEVELS:
        if side < student.shape[2]:
            weight /= 2
            weights += weight
            pooled = pool(student, (side, side)), pool(teacher, (side, side))
            value = value + weight * F.mse_loss(*pooled)
    return value / weights


class ABF(nn.Module):
    """Attention-based fusion: a stage's feature x and what came down from the stage above, y. Section 3.3.

    x (B, in, H, W) → (F (B, out, *out_shape) to compare, fused (B, mid, *out_shape) to hand further down).
    With `fuse`, y (B, mid, ·, ·) is enlarged to x's size and both are mixed by two learned attention maps.
    """

    def __init__(self, in_channel: int, mid_channel: int, out_channel: int, fuse: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channel, mid_channel, 1, bias=False), BatchNorm(mid_channel))
        self.conv2 = nn.Sequential(
            nn.Conv2d(mid_channel, out_channel, 3, padding=1, bias=False), BatchNorm(out_channel)
        )
        self.att_conv = nn.Sequential(nn.Conv2d(2 * mid_channel, 2, 1), nn.Sigmoid()) if fuse else None
        for convolution in (self.conv1[0], self.conv2[0]):
            nn.init.kaiming_uniform_(cast(Tensor, convolution.weight), a=1)

    def forward(
        self, x: Tensor, y: Tensor | None = None, shape: Size | None = None, out_shape: Size | None = None
    ) -> tuple[Tensor, Tensor]:
        """shape: of x's map, to which y is enlarged; out_shape: of the teacher's. None: x's own."""
        x = self.conv1(x)
        if self.att_conv is not None:
            assert y is not None
            y = _resized(y, shape or (x.shape[2], x.shape[3]))
            attention = self.att_conv(torch.cat([x, y], 1))  # (B, 2, H, W)
            x = x * attention[:, :1] + y * attention[:, 1:]
        if out_shape is not None:
            x = _resized(x, out_shape)
        return self.conv2(x), x


def _resized(x: Tensor, size: Size) -> Tensor:
    """By repeating or leaving out pixels."""
    size = (size, size) if isinstance(size, int) else size
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size, mode="nearest")


def cifar_100(teacher: str, student: str, weight: float) -> Preset:
    """The authors' recipe: batches of 128, twice the usual learning rate."""
    return Preset(
        title=f"CIFAR-100, {teacher} → {student}",
        source=f"ReviewKD, CIFAR-100/script/reviewKD.sh and train.py: --kd-loss-weight {weight}",
        teacher=teacher,
        student=student,
        objective=Objective(terms=[Term(method="reviewkd", weight=weight)]),
        training=CIFAR_100
        | {"batch_size": 128, "learning_rate": 0.02 if student.startswith("shuffle") else 0.1},
    )


def imagenet(teacher: str, student: str, weight: float, file: str, max_mid_channel: int) -> Preset:
    params = {"warmup_epochs": 1, "max_mid_channel": max_mid_channel}
    return Preset(
        title=f"ImageNet, {teacher.partition('/')[2]} → {student.partition('/')[2]}",
        source=f"mdistiller, configs/imagenet/{file}/reviewkd.yaml",
        teacher=teacher,
        student=student,
        objective=Objective(terms=[Term(method="reviewkd", weight=weight, params=params)]),
        training=IMAGENET,
    )


class Method(methods.Method):
    title = "Knowledge review"
    paper = "Chen et al.: Distilling Knowledge via Knowledge Review (CVPR 2021)"
    paper_url = "https://arxiv.org/abs/2104.09044"
    formula = (
        "min(epoch / warm-up, 1) · Σ_layers HCL( F_i, F_t,i ), F_i = ABF( F_s,i, what is fused from above )"
    )
    summary = (
        "Each stage of the teacher also teaches the student's later stages: the student's features are fused "
        "from the last stage down, and every fused one is compared with the teacher's at several "
        "resolutions. Strong between any two networks; its fusion costs time in training only. The authors "
        "compare features before the last activation: name such layers where a network has them."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = (
        Preset(
            title="CIFAR-100",
            source="mdistiller, distillers/ReviewKD.py and engine/cfg.py: weight 1, warm-up 20",
            objective=Objective(terms=[Term(method="reviewkd")]),
            training=CIFAR_100,
        ),
        Preset(
            title="CIFAR-100, resnet32x4 → resnet8x4, batches of 64",
            source="mdistiller, configs/cifar100/reviewkd.yaml",
            teacher="resnet32x4",
            student="resnet8x4",
            objective=Objective(terms=[Term(method="reviewkd", weight=5)]),
            training=CIFAR_100,
        ),
        cifar_100("resnet32x4", "resnet8x4", 5),
        cifar_100("resnet32x4", "shufflenetv1", 5),
        cifar_100("resnet32x4", "shufflenetv2", 8),
        cifar_100("wrn-40-2", "wrn-16-2", 5),
        cifar_100("wrn-40-2", "wrn-40-1", 5),
        cifar_100("wrn-40-2", "shufflenetv1", 5),
        cifar_100("resnet56", "resnet20", 0.6),
        cifar_100("resnet110", "resnet32", 1),
        imagenet("torchvision/resnet34", "torchvision/resnet18", 1, "r34_r18", 512),
        imagenet("torchvision/resnet50", "timm/mobilenetv1_100", 8, "r50_mv1", 256),
    )

    class Params(SeveralPairs):
        warmup_epochs: float = Field(
            20.0, ge=0, le=10_000, title="Warm-up", description="Epochs in which the loss grows to its size."
        )
        max_mid_channel: int = Field(
            512,
            ge=1,
            le=8192,
            title="Most fused channels",
            description="The fusion's channels: as many as the student's last stage has, at most these.",
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        pairs = several_pairs(pair, self.params)
        self.layouts = read_pairs(pair, pairs)
        self.student_paths = tuple(student.path for student, _ in pairs)
        self.teacher_paths = tuple(teacher.path for _, teacher in pairs)
        channels = [(ours.channels, theirs.channels) for ours, theirs in self.layouts]
        last = self.layouts[-1]
        # The pooled feature is a level of its own, unless the last stage is one pixel already.
        self.pooled = any(layout.height * layout.width > 1 for layout in last)
        channels += channels[-1:] * self.pooled
        mid = min(self.params.max_mid_channel, last[0].channels)
        top = len(channels) - 1
        self.fusions = nn.ModuleList(ABF(c_s, mid, c_t, i < top) for i, (c_s, c_t) in enumerate(channels))

    def forward(self, step: methods.Step) -> Tensor:
        student, teacher = self._levels(step)
        results: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(len(student))):
            size = teacher[i].shape[2], teacher[i].shape[3]
            result, above = self.fusions[i](student[i], above, out_shape=size)
            results.insert(0, result)
        return self._factor(step) * loss(results, teacher)

    def dials(self, step: methods.Step) -> dict[str, Tensor | float]:
        return {"warm-up": self._factor(step)}

    def _factor(self, step: methods.Step) -> float:
        warmup = self.params.warmup_epochs
        return min(step.epoch / warmup, 1.0) if warmup else 1.0

    def _levels(self, step: methods.Step) -> tuple[list[Tensor], list[Tensor]]:
        """Both sides' maps, the earliest stage first, the pooled feature last."""
        student, teacher = [], []
        for (ours, theirs), a, b in zip(self.layouts, self.student_paths, self.teacher_paths, strict=True):
            student.append(to_map(ours, wide(step.student_features[a])))
            teacher.append(to_map(theirs, wide(step.teacher_features[b])))
        if self.pooled:
            (ours, theirs), a, b = self.layouts[-1], self.student_paths[-1], self.teacher_paths[-1]
            student.append(to_vector(ours, wide(step.student_features[a]))[:, :, None, None])
            teacher.append(to_vector(theirs, wide(step.teacher_features[b]))[:, :, None, None])
        return student, teacher
