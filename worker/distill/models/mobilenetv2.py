"""MobileNetV2 at half width for small images: mobilenetv2-half. Sandler et al. 2018, arXiv 1801.04381.

The variant of the distillation literature: expansion 6, width 0.5, ReLU, the second group of blocks at
stride 1. Parameter names follow RepDistiller's, so that its published checkpoints can be imported.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from worker.distill.models.base import Architecture, global_pool, he_init

KEY = "mobilenetv2-half"
# (expansion, channels at full width, blocks, stride of the first block): table 2 of the paper
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST_CHANNELS = 1280  # not narrowed below full width


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1 projection; a shortcut where the shape stays."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.shortcut = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.shortcut else out


class MobileNetV2(nn.Module):
    """Stem at stride 2, seven groups of inverted residuals, 1×1 to 1280 channels, pooling, classifier."""

    def __init__(self, width: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = _conv_bn_relu(in_channels, channels, kernel=3, stride=2)
        groups: list[nn.Module] = []
        for expansion, full_width, count, stride in GROUPS:
            blocks: list[nn.Module] = []
            for i in range(count):
                c_out = int(full_width * width)
                blocks.append(InvertedResidual(channels, c_out, stride if i == 0 else 1, expansion))
                channels = c_out
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.conv2 = _conv_bn_relu(channels, LAST_CHANNELS, kernel=1, stride=1)
        self.classifier = nn.Sequential(nn.Linear(LAST_CHANNELS, num_classes))
        he_init(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.blocks(self.conv1(x)))  # (B, 1280, H/16, W/16)
        logits: Tensor = self.classifier(global_pool(x))
        return logits


def _conv_bn_relu(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


ARCHITECTURE = Architecture(
    key=KEY,
    title="MobileNetV2 ×0.5",
    family="MobileNetV2 (small images)",
    source="kdweb",
    min_image_size=8,
    summary="Inverted residuals with depthwise convolutions at half width.",
    paper="arXiv 1801.04381",
)


def find(key: str) -> Architecture | None:
    return ARCHITECTURE if key == KEY else None


def architectures() -> Iterable[Architecture]:
    return [ARCHITECTURE]


def build(key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    return MobileNetV2(0.5, num_classes, in_channels)
