"""What a worker says when it starts: what its machine is, and what its code offers."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from worker.distill.exactness import engine
from worker.distill.runtime import available_devices, describe_device, pick_device

PACKAGES = ("torch", "torchvision", "timm")


def catalogue(known: str = "") -> dict[str, Any]:
    """The `catalogue` command's result. Who knows what this `source` offers is told of the machine alone."""
    versions = {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}}
    source = hashlib.sha256(f"{engine()} {versions}".encode()).hexdigest()
    devices = [
        {"name": name, "description": describe_device(pick_device(name))} for name in available_devices()
    ]
    machine = {"source": source, "versions": versions, "devices": devices}
    if source == known:
        return machine
    from worker.distill.offer import offer  # imports every network there is

    return machine | offer()


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
