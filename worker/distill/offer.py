"""What the code offers, as data: the web's forms, checks and help pages are rendered from it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from worker.distill import compression, data, methods, models
from worker.distill.models import Architecture


def offer() -> dict[str, Any]:
    """What this code offers, whatever the machine: methods, networks, kinds of dataset."""
    found = methods.discover()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one image at a time: threads would only wait for each other
    try:
        architectures = [architecture(a) for a in models.architectures().values()]
    finally:
        torch.set_num_threads(threads)
    return {
        "methods": [method(key, kind) for key, kind in found.methods.items()],
        "broken_methods": found.broken,
        "architectures": architectures,
        "dataset_kinds": [dataset_kind(kind) for kind in data.kinds().values()],
    }


def method(key: str, kind: type[methods.Method]) -> dict[str, Any]:
    return {
        "key": key,
        "title": kind.title,
        "paper": kind.paper,
        "paper_url": kind.paper_url,
        "formula": kind.formula,
        "summary": kind.summary,
        "schema": kind.Params.model_json_schema(),
        "needs": list(kind.needs),
        "task_forms": list(kind.task_forms),
        "presets": [preset.model_dump(mode="json") for preset in kind.presets],
    }


def architecture(a: Architecture) -> dict[str, Any]:
    """Counted for our own networks, which are small; the libraries' are profiled when somebody asks."""
    counted = a.source == "kdweb"
    return {
        "key": a.key,
        "title": a.title,
        "family": a.family,
        "source": a.source,
        "min_image_size": a.min_image_size,
        "summary": a.summary,
        "paper": a.paper,
        **(counts(a.key) if counted else {"parameters": None, "flops": None}),
    }


def counts(key: str) -> dict[str, int]:
    """Parameters and FLOPs at 3 × 32 × 32 and 10 classes, the numbers `profile` gives.

    Small nets are run rather than traced: a forward on the meta device takes five times as long.
    """
    model = models.build(key, num_classes=10, in_channels=3, image_size=32).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 3, 32, 32))
    return {"parameters": compression.parameters(model), "flops": counter.get_total_flops()}


def dataset_kind(kind: data.Kind) -> dict[str, Any]:
    return {
        "key": kind.KEY,
        "title": kind.TITLE,
        "summary": kind.SUMMARY,
        "schema": kind.Options.model_json_schema(),
        "source": kind.SOURCE,
    }
