"""What every family of architectures shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from worker.distill.layers import meta_forward
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


def fit_stem(model: nn.Module, in_channels: int, keep: bool) -> None:
    """Give the first convolution, made for three channels, `in_channels` of them.

    keep: w'_c = Σ_k w_k / in_channels, so that one grey picture in every channel is answered as before.
    Otherwise new weights of the old spread, scaled so that the outputs keep theirs.
    """
    path, stem = next((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if stem.in_channels == in_channels:
        return
    new = nn.Conv2d(
        in_channels,
        stem.out_channels,
        stem.kernel_size,  # type: ignore[arg-type]
        stem.stride,  # type: ignore[arg-type]
        stem.padding,  # type: ignore[arg-type]
        bias=stem.bias is not None,
    )
    with torch.no_grad():
        if keep:
            new.weight.copy_(stem.weight.sum(1, keepdim=True).expand_as(new.weight) / in_channels)
        elif not stem.weight.is_meta:
            spread = float(stem.weight.std()) * (stem.in_channels / in_channels) ** 0.5
            nn.init.normal_(new.weight, 0.0, spread)
    new.bias = stem.bias
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)


def verify(model: nn.Module, key: str, in_channels: int, image_size: int) -> None:
    """SpecError unless a forward on the meta device takes such images to one set of logits."""
    try:
        logits = meta_forward(model, in_channels, image_size)
    except SpecError as error:
        raise unfit(key, image_size, in_channels, error.__cause__ or error) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise SpecError("architecture", key, "it does not return one set of logits.", "Choose a classifier.")


def unfit(key: str, image_size: int, in_channels: int, reason: BaseException) -> SpecError:
    """The network cannot work on such images."""
    return SpecError(
        "image_size",
        image_size,
        f"{key} cannot take {image_size}×{image_size} images of {in_channels} channels ({_words(reason)}).",
        "Choose images of the size it was made for, often 224, or a net for small ones such as resnet20.",
    )


def download_failed(key: str, reason: BaseException) -> SpecError:
    """Pretrained weights could not be had: no network, no such weights, a broken download."""
    return SpecError(
        "pretrained",
        True,
        f"the weights of {key} could not be loaded ({_words(reason)}).",
        "Connect the worker to the internet, upload a checkpoint as teacher, or start from random weights.",
    )


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
