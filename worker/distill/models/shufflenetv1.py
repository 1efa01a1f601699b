"""ShuffleNet for small images, 3 groups: shufflenetv1. Zhang et al. 2018, arXiv 1707.01083.

The stem keeps the resolution (1×1 convolution, no max-pooling), as the distillation literature does.
Parameter names follow RepDistiller's, so that its published checkpoints can be imported.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.models.base import Architecture, global_pool

KEY = "shufflenetv1"
STEM, GROUPS = 24, 3
STAGES = ((240, 4), (480, 8), (960, 4))  # channels, units: table 1 of the paper, g = 3


class Unit(nn.Module):
    """Grouped 1×1, shuffle, 3×3 depthwise, grouped 1×1; added to x, at stride 2 beside its pooling."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # section 3.2: no grouping on the very first 1×1, its input has too few channels
        self.groups = 1 if c_in == STEM else GROUPS
        c_branch = c_out - c_in if stride == 2 else c_out  # concatenation fills the rest
        c_mid = c_branch // 4
        self.conv1 = nn.Conv2d(c_in, c_mid, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(c_mid)
        self.conv2 = nn.Conv2d(c_mid, c_mid, 3, stride, 1, groups=c_mid, bias=False)
        self.bn2 = nn.BatchNorm2d(c_mid)
        self.conv3 = nn.Conv2d(c_mid, c_branch, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(c_branch)
        self.relu = nn.ReLU()  # a module, so that the features before it can be looked at

    def forward(self, x: Tensor) -> Tensor:
        out = F.channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], dim=1) if self.stride == 2 else out + x
        result: Tensor = self.relu(out)
        return result


class ShuffleNet(nn.Module):
    """Stem of 24 channels, three stages that each halve the resolution, global pooling, classifier."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = (STEM, *(c_out for c_out, _ in STAGES[:-1]))
        stages = [_stage(c_in, *stage) for c_in, stage in zip(inputs, STAGES, strict=True)]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(STAGES[-1][0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, C3, H/8, W/8)
        logits: Tensor = self.linear(global_pool(x))
        return logits


def _stage(c_in: int, c_out: int, units: int) -> nn.Sequential:
    return nn.Sequential(
        Unit(c_in, c_out, stride=2), *(Unit(c_out, c_out, stride=1) for _ in range(units - 1))
    )


ARCHITECTURE = Architecture(
    key=KEY,
    title="ShuffleNetV1",
    family="ShuffleNet (small images)",
    source="kdweb",
    min_image_size=8,
    summary="Grouped 1×1 convolutions (3 groups) with channel shuffle.",
    paper="arXiv 1707.01083",
)


def find(key: str) -> Architecture | None:
    return ARCHITECTURE if key == KEY else None


def architectures() -> Iterable[Architecture]:
    return [ARCHITECTURE]


def build(key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    return ShuffleNet(num_classes, in_channels)
