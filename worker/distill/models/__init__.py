"""Networks by key: ours (`resnet8x4`, `wrn-16-2` …), `torchvision/<name>` and `timm/<name>`.

A family is one file of this folder (see base.Family): a new one needs no change elsewhere.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from typing import cast

from torch import nn

from worker.distill.models.base import Architecture, Family
from worker.distill.spec import SpecError

__all__ = ["Architecture", "architectures", "build", "find"]


@functools.cache
def _families() -> tuple[Family, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    return tuple(cast(Family, importlib.import_module(f"{__name__}.{name}")) for name in names)


@functools.cache
def architectures() -> dict[str, Architecture]:
    """Every listed architecture, ours first. Imports torchvision and timm: costs seconds the first time."""
    listed = [architecture for family in _families() for architecture in family.architectures()]
    sources = ("kdweb", "torchvision", "timm")
    return {a.key: a for a in sorted(listed, key=lambda a: sources.index(a.source))}


def find(key: str) -> Architecture:
    """The architecture called `key`, listed or matching a pattern such as wrn-<6n+4>-<k>."""
    return _find(key)[1]


def build(
    key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool = False
) -> nn.Module:
    """(B, in_channels, image_size, image_size) → (B, num_classes). SpecError when that cannot be."""
    family, architecture = _find(key)
    least = architecture.min_image_size
    if image_size < least:
        raise SpecError(
            "image_size",
            image_size,
            f"{key} needs images of at least {least}×{least} pixels.",
            "Choose a dataset with larger images, or a network for small ones such as resnet20.",
        )
    if pretrained and architecture.source == "kdweb":
        fix = "Upload a checkpoint as teacher, or start from random weights."
        raise SpecError("pretrained", True, f"there are no library weights for {key}.", fix)
    return family.build(
        key, num_classes=num_classes, in_channels=in_channels, image_size=image_size, pretrained=pretrained
    )


def _find(key: str) -> tuple[Family, Architecture]:
    for family in _families():
        if (architecture := family.find(key)) is not None:
            return family, architecture
    near = difflib.get_close_matches(key, architectures(), n=3, cutoff=0.5)
    fix = f"Did you mean {', '.join(near)}?" if near else "See the list of architectures."
    raise SpecError("architecture", key, "is not known.", fix)
