"""Wide residual networks: wrn-<depth>-<width>, any depth 6n+4. Zagoruyko & Komodakis 2016, arXiv 1605.07146.

Pre-activation blocks, without dropout. Parameter names follow RepDistiller's, so that its published
checkpoints can be imported (`convShortcut` is its name).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.models.base import Architecture, global_pool, he_init

USUAL = (
    "wrn-10-1",
    "wrn-16-1",
    "wrn-16-2",
    "wrn-16-4",
    "wrn-28-2",
    "wrn-28-10",
    "wrn-40-1",
    "wrn-40-2",
    "wrn-40-4",
)
MAX_DEPTH, MAX_WIDTH = 1000, 64
_KEY = re.compile(r"wrn-([1-9]\d{0,3})-([1-9]\d{0,2})")


class Block(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))); where the shape changes, a 1×1 shortcut from the first relu."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.convShortcut: nn.Module | None = None
        if c_in != c_out:
            self.convShortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class Stage(nn.Module):
    """n blocks; the first may halve the resolution."""

    def __init__(self, c_in: int, c_out: int, n: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            Block(c_in, c_out, stride), *(Block(c_out, c_out, 1) for _ in range(n - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """Stem of 16 channels, stages of 16k, 32k and 64k channels, final bn-relu, global pooling, classifier."""

    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        n = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        # width 1 keeps 16 channels: block1 then has no shortcut convolution and stride 1, so shapes agree
        self.block1 = Stage(16, 16 * width, n, stride=1)
        self.block2 = Stage(16 * width, 32 * width, n, stride=2)
        self.block3 = Stage(32 * width, 64 * width, n, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU()  # a module, so that the features behind it can be looked at
        self.fc = nn.Linear(64 * width, num_classes)
        he_init(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))  # (B, 64k, H/4, W/4)
        logits: Tensor = self.fc(global_pool(self.relu(self.bn1(x))))
        return logits


def _parse(key: str) -> tuple[int, int] | None:
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    depth, width = int(match[1]), int(match[2])
    valid = depth >= 10 and (depth - 4) % 6 == 0 and depth <= MAX_DEPTH and width <= MAX_WIDTH
    return (depth, width) if valid else None


def find(key: str) -> Architecture | None:
    parsed = _parse(key)
    if parsed is None:
        return None
    depth, width = parsed
    return Architecture(
        key=key,
        title=f"WRN-{depth}-{width}",
        family="Wide ResNet",
        source="kdweb",
        min_image_size=8,
        summary=f"{depth} layers, {width} × the width of a ResNet, {(depth - 4) // 6} blocks a stage.",
        paper="arXiv 1605.07146",
    )


def architectures() -> Iterable[Architecture]:
    return [found for key in USUAL if (found := find(key))]


def build(key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    parsed = _parse(key)
    assert parsed is not None
    return WideResNet(*parsed, num_classes, in_channels)
