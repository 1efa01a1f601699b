"""scikit-learn's handwritten digits: 1,797 grey images of 8 × 8, bundled, no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worker.distill.data._split import stratified
from worker.distill.data.prepared import Augmentation, Meta, Writer
from worker.distill.events import Phase, Reporter
from worker.distill.spec import Strict

KEY = "digits"
TITLE = "Digits (scikit-learn)"
SUMMARY = "1,797 handwritten digits, 8 × 8 grey, 10 classes. Bundled with scikit-learn: no download."
SOURCE = "bundled"
SPLIT_SEED = 0


class Options(Strict):
    """Nothing to choose: the set and its split are fixed."""


def prepare(options: Options, source: str | None, output: Path, report: Reporter) -> Meta:
    from sklearn.datasets import load_digits

    report(Phase(name="data", detail="reading scikit-learn's digits"))
    pixels, labels = load_digits(return_X_y=True)  # (1797, 64) of 0..16, (1797,)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = labels.astype(np.int64)
    rest, test = stratified(labels, 360, SPLIT_SEED)
    train, val = stratified(labels[rest], 180, SPLIT_SEED)  # 70 : 10 : 20
    names = [str(digit) for digit in range(10)]
    with Writer(output, kind=KEY, classes=names, channels=1, height=8, width=8) as writer:
        for split, index in (("train", rest[train]), ("val", rest[val]), ("test", test)):
            writer.add(split, images[index], labels[index])
        return writer.finish(augment=Augmentation(padding=1))
