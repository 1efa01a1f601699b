"""How static files are found and named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage, Storage
from whitenoise.storage import CompressedManifestStaticFilesStorage


def plotly_folder() -> Path:
    """Where the plotly package keeps its bundle, found without importing the package (0.3 s)."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("The plotly package is not installed: pip install -e .")
    return Path(spec.submodule_search_locations[0]) / "package_data"


class PlotlyFinder(BaseFinder):
    """Serves one file of the plotly package, as `plotly/plotly.min.js`; the rest of it is of no use here."""

    name = "plotly.min.js"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.storage = FileSystemStorage(location=str(plotly_folder()))
        self.storage.prefix = "plotly"  # type: ignore[attr-defined]  # collectstatic's own convention

    def check(self, **kwargs: Any) -> list[Any]:
        return []

    def find(self, path: str, find_all: bool = False, **kwargs: Any) -> Any:
        found = [self.storage.path(self.name)] if path == f"plotly/{self.name}" else []
        return found[0] if found and not find_all else found

    def list(self, ignore_patterns: Iterable[str] | None) -> Iterator[tuple[str, Storage]]:
        yield self.name, self.storage


class HashedStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # untyped base
    """Names carry the content's hash, also where one of our own ES modules (`js/…`) imports another.

    Not so in other people's files: their comments and bundled code contain what only looks like imports.
    """

    patterns = (
        *CompressedManifestStaticFilesStorage.patterns,
        ("js/*.js", CompressedManifestStaticFilesStorage._js_module_import_aggregation_patterns[1]),
    )
