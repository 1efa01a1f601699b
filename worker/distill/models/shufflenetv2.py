"""ShuffleNetV2 for small images: shufflenetv2. Ma et al. 2018, arXiv 1807.11164.

The stem keeps the resolution (1×1 convolution, no max-pooling), as the distillation literature does.
Parameter names follow RepDistiller's, so that its published checkpoints can be imported.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.models.base import Architecture, global_pool

KEY = "shufflenetv2"
STEM, LAST_CHANNELS = 24, 1024
STAGES = ((116, 3), (232, 7), (464, 3))  # channels, units behind the downsampling one: table 5, width 1


class Unit(nn.Module):
    """Half of the channels pass, half go through 1×1, 3×3 depthwise, 1×1; then a shuffle. Figure 3c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        out = F.relu(self.bn3(self.conv3(out)))
        return F.channel_shuffle(torch.cat([kept, out], dim=1), 2)


class DownUnit(nn.Module):
    """Both branches see all channels and halve the resolution. Figure 3d."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        half = c_out // 2
        self.conv1 = nn.Conv2d(c_in, c_in, 3, 2, 1, groups=c_in, bias=False)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv2 = nn.Conv2d(c_in, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(c_in, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = F.relu(self.bn2(self.conv2(left)))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = F.relu(self.bn5(self.conv5(right)))
        return F.channel_shuffle(torch.cat([left, right], dim=1), 2)


class ShuffleNetV2(nn.Module):
    """Stem of 24 channels, three stages that each halve the resolution, 1×1 to 1024, pooling, classifier."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = (STEM, *(c_out for c_out, _ in STAGES[:-1]))
        stages = [_stage(c_in, *stage) for c_in, stage in zip(inputs, STAGES, strict=True)]
        self.layer1, self.layer2, self.layer3 = stages
        self.conv2 = nn.Conv2d(STAGES[-1][0], LAST_CHANNELS, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST_CHANNELS)
        self.relu = nn.ReLU()  # a module, so that the features behind it can be looked at
        self.linear = nn.Linear(LAST_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, C3, H/8, W/8)
        x = self.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(global_pool(x))
        return logits


def _stage(c_in: int, c_out: int, units: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(c_in, c_out), *(Unit(c_out) for _ in range(units)))


ARCHITECTURE = Architecture(
    key=KEY,
    title="ShuffleNetV2",
    family="ShuffleNet (small images)",
    source="kdweb",
    min_image_size=8,
    summary="Channel split and shuffle instead of grouped convolutions, width 1.",
    paper="arXiv 1807.11164",
)


def find(key: str) -> Architecture | None:
    return ARCHITECTURE if key == KEY else None


def architectures() -> Iterable[Architecture]:
    return [ARCHITECTURE]


def build(key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    return ShuffleNetV2(num_classes, in_channels)
