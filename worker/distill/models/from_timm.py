"""timm's models: timm/<name> or timm/<name>.<weights>, for any channel count and number of classes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from worker.distill.models.base import Architecture, download_failed, unfit, verify
from worker.distill.runtime import import_torchvision
from worker.distill.spec import SpecError

PREFIX = "timm/"
LEAST = 8  # tried when building: what a network needs beyond that, timm does not say


def _timm() -> Any:
    import_torchvision()  # timm imports it, and it may need help
    return importlib.import_module("timm")


def find(key: str) -> Architecture | None:
    if not key.startswith(PREFIX):
        return None
    timm, full_name = _timm(), key.removeprefix(PREFIX)
    name, _, weights = full_name.partition(".")
    if not timm.is_model(name) or (weights and full_name not in timm.list_pretrained(f"{name}.*")):
        return None
    module = timm.model_entrypoint(name).__module__
    about = importlib.import_module(module).__doc__ or ""
    papers = set(re.findall(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})", about))
    return Architecture(
        key=key,
        title=f"{full_name} (timm)",
        family=module.rsplit(".", 1)[-1],
        source="timm",
        min_image_size=_patch(name) or LEAST,
        summary=f"timm's {name}, made for larger images; pretrained weights are downloaded.",
        paper=f"arXiv {papers.pop()}" if len(papers) == 1 else "",
    )


def architectures() -> Iterable[Architecture]:
    return [found for name in _timm().list_models() if (found := find(PREFIX + name))]


def build(key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    timm, name = _timm(), key.removeprefix(PREFIX)
    patch = _patch(name)
    if patch and image_size % patch:
        # timm would drop the pixels beyond the last whole patch without a word
        fix = f"Choose a dataset whose images have a multiple of {patch} pixels, or another network."
        raise SpecError("image_size", image_size, f"{key} cuts images into patches of {patch} pixels.", fix)
    config = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, "pretrained": pretrained}
    sized = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    try:
        try:
            model: nn.Module = timm.create_model(name, **options, **sized)
        except TypeError:
            model = timm.create_model(name, **options)  # made for one size, and takes no other
    except Exception as error:
        if pretrained:
            raise download_failed(key, error) from error
        if isinstance(error, NotImplementedError):
            raise  # it computes while it is built, which no meta device can: profile.py tries without
        raise unfit(key, image_size, in_channels, error) from error
    verify(model, key, in_channels, image_size)
    return model


def _patch(name: str) -> int:
    """The side of a plain ViT's patches; 0 for networks that take any size."""
    match = re.search(r"_patch(\d+)", name)
    return int(match[1]) if match else 0
