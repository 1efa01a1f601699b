"""What every family of architectures shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from worker.distill.spec import SpecError


@dataclass(frozen=True)
class Architecture:
    """One network by key, as the catalogue shows it. `min_image_size`: the least side of its square input."""

    key: str
    title: str
    family: str
    source: Literal["kdweb", "torchvision", "timm"]
    min_image_size: int
    summary: str
    paper: str = ""


class Family(Protocol):
    """What a file of this folder offers."""

    def architectures(self) -> Iterable[Architecture]:
        """The usual ones, to be listed."""

    def find(self, key: str) -> Architecture | None:
        """The architecture of that key, listed or not; None if it is not of this family."""

    def build(
        self, key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool
    ) -> nn.Module:
        """A network for (B, in_channels, image_size, image_size) → (B, num_classes)."""


def he_init(model: nn.Module, linear_std: float | None = None) -> None:
    """He et al. 2015 (arXiv 1502.01852), fan-out: conv ~ N(0, 2 / (k² · C_out)); norms 1 and 0.

    `linear_std` draws the classifier from N(0, linear_std²) with zero bias; None leaves torch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # fan-out counts a whole output map even for grouped convolutions, as the reference nets do
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)


def global_pool(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C), the mean over all positions: any image size fits the classifier."""
    return x.mean(dim=(2, 3))


def no_weights(key: str) -> SpecError:
    """Our own networks have no weights to download."""
    return SpecError(
        "pretrained",
        True,
        f"There are no library weights for {key}.",
        "Upload a checkpoint as teacher instead.",
    )
