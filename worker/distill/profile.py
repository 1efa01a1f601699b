"""The `profile` command: what an architecture is at an input, without weights, data or computing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from worker.distill import compression, models
from worker.distill.layers import trace
from worker.distill.pairing import stages
from worker.distill.spec import ProfileSpec


def profile(spec: ProfileSpec) -> dict[str, Any]:
    """Parameters, FLOPs, bytes, layers with shapes, and the stages where networks are compared."""
    model = _without_memory(spec)
    layers = trace(model, spec.in_channels, spec.image_size)
    return {
        "parameters": compression.parameters(model),
        "flops": compression.flops(model, spec.in_channels, spec.image_size),
        "bytes": compression.weights_bytes(model),
        "layers": [{"path": layer.path, "kind": layer.kind, "shape": list(layer.shape)} for layer in layers],
        "stages": [{"path": layer.path, "shape": list(layer.shape)} for layer in stages(layers)],
    }


def _without_memory(spec: ProfileSpec) -> nn.Module:
    def build() -> nn.Module:
        return models.build(
            spec.architecture,
            num_classes=spec.num_classes,
            in_channels=spec.in_channels,
            image_size=spec.image_size,
        )

    try:
        with torch.device("meta"):
            return build()
    except (NotImplementedError, RuntimeError):
        return build()  # a few library networks compute with tensors while they are built (RegNet)
