"""What this machine offers, as data: the web's forms, checks and help pages are rendered from it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from worker.distill import data, methods, models
from worker.distill.models import Architecture
from worker.distill.profile import profile
from worker.distill.runtime import available_devices, describe_device, pick_device
from worker.distill.spec import ProfileSpec

PACKAGES = ("torch", "torchvision", "timm")


def catalogue() -> dict[str, Any]:
    """The `catalogue` command's result."""
    found = methods.discover()
    return {
        "methods": [method(key, kind) for key, kind in found.methods.items()],
        "broken_methods": found.broken,
        "architectures": [architecture(a) for a in models.architectures().values()],
        "dataset_kinds": [dataset_kind(kind) for kind in data.kinds().values()],
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
        "devices": [
            {"name": name, "description": describe_device(pick_device(name))} for name in available_devices()
        ],
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
    }


def architecture(a: Architecture) -> dict[str, Any]:
    """Counted for our own networks, which are small; the libraries' are built only when asked for."""
    counts: dict[str, Any] = {"parameters": None, "flops": None}
    if a.source == "kdweb":
        spec = ProfileSpec(architecture=a.key, num_classes=10, in_channels=3, image_size=32)
        described = profile(spec)
        counts = {name: described[name] for name in counts}
    return {
        "key": a.key,
        "title": a.title,
        "family": a.family,
        "source": a.source,
        "min_image_size": a.min_image_size,
        "summary": a.summary,
        "paper": a.paper,
        **counts,
    }


def dataset_kind(kind: data.Kind) -> dict[str, Any]:
    return {
        "key": kind.KEY,
        "title": kind.TITLE,
        "summary": kind.SUMMARY,
        "schema": kind.Options.model_json_schema(),
        "source": kind.SOURCE,
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
