"""Dataset kinds: one file each, found by listing this folder.

A kind's file defines

    KEY, TITLE, SUMMARY     its name for ever, its name on pages, one sentence
    SOURCE                  'bundled' | 'download' | 'upload': where its data come from
    Options                 pydantic model; the web draws its form from the JSON schema
    prepare(options, source, output, report) -> Meta

and converts whatever it reads to the one format of prepared.py.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ValidationError

from worker.distill.data._report import log
from worker.distill.data.prepared import Meta
from worker.distill.errors import StopRequested, spec_error
from worker.distill.events import Reporter
from worker.distill.spec import PrepareSpec, SpecError, Strict


class Kind(Protocol):
    """What a kind's file looks like from outside."""

    KEY: str
    TITLE: str
    SUMMARY: str
    SOURCE: Literal["bundled", "download", "upload"]
    Options: type[Strict]

    def prepare(self, options: Any, source: str | None, output: Path, report: Reporter) -> Meta: ...


@cache
def kinds() -> dict[str, Kind]:
    """Every kind by key. A file that cannot be imported is logged and left out; the others stay usable."""
    found: dict[str, Any] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if module.name.startswith("_") or module.name in ("prepared", "augment"):
            continue
        try:
            kind = importlib.import_module(f"{__name__}.{module.name}")
            found[kind.KEY] = kind
        except Exception:
            logging.getLogger(__name__).exception("dataset kind %s cannot be used", module.name)
    return found


def prepare(
    spec: PrepareSpec, report: Reporter, should_stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """The `prepare` command: convert a source of data; the result is Meta's public part."""

    def report_or_stop(event: BaseModel) -> None:
        if should_stop():
            raise StopRequested  # the writer's half-made folder is removed on the way out
        report(event)

    kind = kinds().get(spec.kind)
    if kind is None:
        raise SpecError(
            "kind", spec.kind, "there is no such kind of dataset.", f"Known: {', '.join(kinds())}."
        )
    if kind.SOURCE == "upload" and not spec.source:
        raise SpecError("source", spec.source, "this kind needs data.", "Upload an archive or name a folder.")
    try:
        options = kind.Options.model_validate(spec.options)
    except ValidationError as error:
        raise spec_error(error, "options") from error
    meta = kind.prepare(options, spec.source, Path(spec.output), report_or_stop)
    for warning in meta.warnings:
        log(report, warning, "warning")
    sizes = ", ".join(f"{number:,} {name}" for name, number in meta.sizes.items() if number)
    shape = f"{meta.channels} × {meta.height} × {meta.width}"
    log(report, f"{len(meta.classes)} classes, images of {shape}: {sizes}")
    return meta.result()
