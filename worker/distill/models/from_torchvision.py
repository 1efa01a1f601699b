"""torchvision's classification models: torchvision/<name>, for any channel count and number of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from worker.distill.models.base import Architecture, download_failed, fit_stem, unfit, verify
from worker.distill.runtime import import_torchvision

PREFIX = "torchvision/"
# The least side that survives the strides and poolings, found by trying (tests/distill/test_models.py).
# What is not named here works from 8 pixels on; a ViT needs a patch.
MIN_IMAGE_SIZE = {
    "alexnet": 63,
    "convnext": 32,
    "densenet": 29,
    "googlenet": 15,
    "inception": 75,
    "maxvit": 221,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "vgg": 32,
}


def _models() -> Any:
    return import_torchvision().models


def _names() -> list[str]:
    models = _models()
    names: list[str] = models.list_models(module=models)
    return names


def find(key: str) -> Architecture | None:
    name = key.removeprefix(PREFIX)
    if not key.startswith(PREFIX) or name not in _names():
        return None
    builder = _models().get_model_builder(name)
    family = builder.__module__.rsplit(".", 1)[-1]
    paper = re.search(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", builder.__doc__ or "")
    return Architecture(
        key=key,
        title=f"{name} (torchvision)",
        family=family,
        source="torchvision",
        min_image_size=_minimum(name, family),
        summary=f"torchvision's {name}, made for ImageNet; pretrained weights are downloaded.",
        paper=f"arXiv {paper[1]}" if paper else "",
    )


def _minimum(name: str, family: str) -> int:
    patch = re.fullmatch(r"vit_._(\d+)", name)
    return int(patch[1]) if patch else MIN_IMAGE_SIZE.get(name, MIN_IMAGE_SIZE.get(family, 8))


def architectures() -> Iterable[Architecture]:
    return [found for name in _names() if (found := find(PREFIX + name))]


def build(key: str, *, num_classes: int, in_channels: int, image_size: int, pretrained: bool) -> nn.Module:
    name = key.removeprefix(PREFIX)
    models = _models()
    options = _options(name, image_size)
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    except (ValueError, AssertionError) as error:
        # Only networks built for one input size object: ViT and MaxViT
        raise unfit(key, image_size, in_channels, error) from error
    if pretrained:
        _load_pretrained(model, name, image_size)
    fit_stem(model, in_channels, keep=pretrained)
    if in_channels != 3:
        # GoogLeNet's and Inception's pretrained weights re-normalise exactly three channels.
        model.transform_input = False  # type: ignore[assignment]
    verify(model, key, in_channels, image_size)
    return model


def _options(name: str, image_size: int) -> dict[str, Any]:
    """Constructor arguments beyond the number of classes."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}  # one output, and the authors' initialisation
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    return {}


def _load_pretrained(model: nn.Module, name: str, image_size: int) -> None:
    """Copy torchvision's best weights, all that fit: with other classes the classifier stays as it is."""
    models = _models()
    try:
        source: nn.Module = models.get_model(name, weights="DEFAULT")
    except Exception as error:
        raise download_failed(PREFIX + name, error) from error
    state = source.state_dict()
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        state = models.vision_transformer.interpolate_embeddings(image_size, patch, state)
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    model.transform_input = getattr(source, "transform_input", False)  # type: ignore[assignment]
