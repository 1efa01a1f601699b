"""CIFAR-10: 60,000 colour photographs of 32 × 32, 10 classes. Krizhevsky 2009."""

from __future__ import annotations

from pathlib import Path

from worker.distill.data import _cifar
from worker.distill.data.prepared import Meta
from worker.distill.events import Reporter

KEY = "cifar10"
TITLE = "CIFAR-10"
SUMMARY = "60,000 photographs, 32 × 32 colour, 10 classes. From a folder on the server, or downloaded."
SOURCE = "download"
Options = _cifar.Options

CIFAR10 = _cifar.CifarSet(
    kind=KEY,
    name="CIFAR10",
    folder="cifar-10-batches-py",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)


def prepare(options: _cifar.Options, source: str | None, output: Path, report: Reporter) -> Meta:
    return _cifar.prepare(CIFAR10, options, source, output, report)
