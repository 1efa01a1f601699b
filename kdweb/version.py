"""The version of kdweb that runs."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    try:
        return metadata.version("kdweb")
    except metadata.PackageNotFoundError:  # run from a checkout that nobody installed
        return "checkout"
