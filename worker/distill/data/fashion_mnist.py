"""Fashion-MNIST: 70,000 pictures of clothes, 28 × 28 grey. Xiao et al. 2017, arXiv 1708.07747."""

from __future__ import annotations

from pathlib import Path

from worker.distill.data import _idx
from worker.distill.data.prepared import Augmentation, Meta
from worker.distill.events import Reporter

KEY = "fashion_mnist"
TITLE = "Fashion-MNIST"
SUMMARY = "70,000 pictures of clothes, 28 × 28 grey, 10 classes. From a folder on the server, or downloaded."
SOURCE = "download"
Options = _idx.Options

FASHION_MNIST = _idx.IdxSet(
    kind=KEY,
    name="FashionMNIST",
    classes=[
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    mean=(0.2860,),
    std=(0.3530,),
    augment=Augmentation(padding=3, flip=True),
)


def prepare(options: _idx.Options, source: str | None, output: Path, report: Reporter) -> Meta:
    return _idx.prepare(FASHION_MNIST, options, source, output, report)
