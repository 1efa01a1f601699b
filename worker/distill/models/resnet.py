"""Residual networks for small images: resnet8 … resnet110, and the four times wider resnet8x4, resnet32x4.

He et al. 2016, arXiv 1512.03385, section 4.2 (depth 6n+2, three stages, no max-pooling), with projection
shortcuts where the shape changes, as the distillation literature uses them. Parameter names follow
RepDistiller's, so that its published checkpoints can be imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.models.base import Architecture, global_pool, he_init

DEPTHS = (8, 14, 20, 32, 44, 56, 110)
WIDE_DEPTHS = (8, 32)  # the literature's ×4 variants
_KEY = re.compile(r"resnet(\d+)(x4)?")


class Block(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x))))))"""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU()  # a module, so that the features before it can be looked at
        self.downsample: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


class ResNet(nn.Module):
    """Stem, three stages of n blocks at full, half and quarter resolution, global pooling, classifier."""

    def __init__(
        self, depth: int, widths: tuple[int, int, int, int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        n = (depth - 2) // 6
        stem, *stages = widths
        self.conv1 = nn.Conv2d(in_channels, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, stages[0], n, stride=1)
        self.layer2 = _stage(stages[0], stages[1], n, stride=2)
        self.layer3 = _stage(stages[1], stages[2], n, stride=2)
        self.fc = nn.Linear(stages[2], num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # (B, C0, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, C3, H/4, W/4)
        logits: Tensor = self.fc(global_pool(x))
        return logits


def _stage(c_in: int, c_out: int, n: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(c_in, c_out, stride), *(Block(c_out, c_out, 1) for _ in range(n - 1)))


def _parse(key: str) -> tuple[int, bool] | None:
    """'resnet32x4' → (32, True); None for what the literature does not have (resnet18 is torchvision's)."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    depth, wide = int(match[1]), bool(match[2])
    return (depth, wide) if depth in (WIDE_DEPTHS if wide else DEPTHS) else None


def find(key: str) -> Architecture | None:
    parsed = _parse(key)
    if parsed is None:
        return None
    depth, wide = parsed
    return Architecture(
        key=key,
        title=f"ResNet-{depth}{'×4' if wide else ''}",
        family="ResNet (small images)",
        source="kdweb",
        min_image_size=8,
        summary=f"{depth} layers, three stages of {(depth - 2) // 6} residual blocks"
        f"{', four times the width' if wide else ''}.",
        paper="arXiv 1512.03385",
    )


def architectures() -> Iterable[Architecture]:
    keys = [f"resnet{depth}" for depth in DEPTHS] + [f"resnet{depth}x4" for depth in WIDE_DEPTHS]
    return [found for key in keys if (found := find(key))]


def build(key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    parsed = _parse(key)
    assert parsed is not None
    depth, wide = parsed
    widths = (32, 64, 128, 256) if wide else (16, 16, 32, 64)
    return ResNet(depth, widths, num_classes, in_channels)
