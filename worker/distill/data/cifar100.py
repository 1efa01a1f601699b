"""CIFAR-100: 60,000 colour photographs of 32 × 32, 100 classes. Krizhevsky 2009."""

from __future__ import annotations

from pathlib import Path

from worker.distill.data import _cifar
from worker.distill.data.prepared import Meta
from worker.distill.events import Reporter

KEY = "cifar100"
TITLE = "CIFAR-100"
SUMMARY = "60,000 photographs, 32 × 32 colour, 100 classes. From a folder on the server, or downloaded."
SOURCE = "download"
Options = _cifar.Options

CIFAR100 = _cifar.CifarSet(
    kind=KEY,
    name="CIFAR100",
    folder="cifar-100-python",
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


def prepare(options: _cifar.Options, source: str | None, output: Path, report: Reporter) -> Meta:
    return _cifar.prepare(CIFAR100, options, source, output, report)
