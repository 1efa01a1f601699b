"""VGG for small images: vgg8, vgg11, vgg13, vgg16, vgg19. Simonyan & Zisserman 2015, arXiv 1409.1556.

With batch normalisation, one linear classifier behind global pooling, and the shallow vgg8 of the
distillation literature. Parameter names follow RepDistiller's, so that its published checkpoints can be
imported.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.models.base import Architecture, global_pool, he_init

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # in each of the five blocks
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """Five blocks of conv-bn-relu; max-pooling behind the first three, the fourth too from 64 pixels on."""

    def __init__(self, counts: tuple[int, ...], num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        inputs = (in_channels, *WIDTHS[:-1])
        blocks = [_block(*shape) for shape in zip(inputs, WIDTHS, counts, strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.pools = 4 if image_size >= 64 else 3
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        he_init(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        blocks = (self.block0, self.block1, self.block2, self.block3, self.block4)
        for i, block in enumerate(blocks):
            x = block(x)  # (B, WIDTHS[i], H/2^i, W/2^i)
            if i < self.pools:
                x = F.max_pool2d(x, 2)
        logits: Tensor = self.classifier(global_pool(x))
        return logits


def _block(c_in: int, c_out: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(c_in, c_out, 3, 1, 1), nn.BatchNorm2d(c_out), nn.ReLU()]
        c_in = c_out
    return nn.Sequential(*layers)


def find(key: str) -> Architecture | None:
    if key not in CONVOLUTIONS:
        return None
    return Architecture(
        key=key,
        title=f"VGG-{key.removeprefix('vgg')}",
        family="VGG (small images)",
        source="kdweb",
        min_image_size=8,
        summary=f"{sum(CONVOLUTIONS[key])} plain 3×3 convolutions with batch normalisation in five blocks.",
        paper="arXiv 1409.1556",
    )


def architectures() -> Iterable[Architecture]:
    return [found for key in CONVOLUTIONS if (found := find(key))]


def build(key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    return VGG(CONVOLUTIONS[key], num_classes, in_channels, image_size)
