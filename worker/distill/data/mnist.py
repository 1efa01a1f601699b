"""MNIST: 70,000 handwritten digits, 28 × 28 grey. LeCun et al. 1998."""

from __future__ import annotations

from pathlib import Path

from worker.distill.data import _idx
from worker.distill.data.prepared import Augmentation, Meta
from worker.distill.events import Reporter

KEY = "mnist"
TITLE = "MNIST"
SUMMARY = "70,000 handwritten digits, 28 × 28 grey, 10 classes. From a folder on the server, or downloaded."
SOURCE = "download"
Options = _idx.Options

MNIST = _idx.IdxSet(
    kind=KEY,
    name="MNIST",
    classes=[str(digit) for digit in range(10)],
    mean=(0.1307,),
    std=(0.3081,),
    augment=Augmentation(padding=3),  # no mirroring: a mirrored digit is another sign
)


def prepare(options: _idx.Options, source: str | None, output: Path, report: Reporter) -> Meta:
    return _idx.prepare(MNIST, options, source, output, report)
