"""CIFAR's pickles. Only torchvision's loader opens them, after it has checked every file's published MD5:
then they are the authors' own bytes, and unpickling them is safe."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from worker.distill.data._idx import NO_NETWORK, SPLIT_SEED
from worker.distill.data._split import stratified
from worker.distill.data.prepared import Augmentation, Images, Labels, Meta, Writer
from worker.distill.events import Phase, Reporter
from worker.distill.spec import SpecError, Strict


class Options(Strict):
    validation: int = Field(
        5000,
        ge=500,
        le=25_000,
        title="Validation images",
        description="Taken out of the training images, the same share of every class, always the same ones.",
    )


@dataclass(frozen=True)
class CifarSet:
    kind: str
    name: str  # torchvision's class
    folder: str  # the folder its archive makes
    mean: tuple[float, ...]
    std: tuple[float, ...]


def prepare(what: CifarSet, options: Options, source: str | None, output: Path, report: Reporter) -> Meta:
    if source:
        report(Phase(name="data", detail=f"reading {what.name} from {source}"))
        root = Path(source).parent if Path(source).name == what.folder else Path(source)
        return _convert(what, options, _open(what, root, download=False), output)
    report(Phase(name="data", detail=f"downloading {what.name}"))
    with tempfile.TemporaryDirectory() as folder:
        return _convert(what, options, _open(what, Path(folder), download=True), output)


def _open(what: CifarSet, root: Path, *, download: bool) -> tuple[Any, Any]:
    from worker.distill.runtime import import_torchvision

    import_torchvision()
    from torchvision import datasets

    loader = getattr(datasets, what.name)
    try:
        return loader(str(root), train=True, download=download), loader(str(root), train=False)
    except (OSError, RuntimeError) as error:
        if download:
            problem = f"{what.name} cannot be downloaded ({' '.join(str(error).split())[:200]})."
            raise SpecError("source", None, problem, NO_NETWORK) from error
        problem = f"it holds no {what.folder} whose files have the published checksums."
        fix = f"Unpack the authors' archive there, so that it holds {what.folder}."
        raise SpecError("source", str(root), problem, fix) from error


def _convert(what: CifarSet, options: Options, opened: tuple[Any, Any], output: Path) -> Meta:
    (images, labels), test = _arrays(opened[0]), _arrays(opened[1])
    train, val = stratified(labels, options.validation, SPLIT_SEED)
    names = [str(name) for name in opened[0].classes]
    with Writer(output, kind=what.kind, classes=names, channels=3, height=32, width=32) as writer:
        writer.add("train", images[train], labels[train])
        writer.add("val", images[val], labels[val])
        writer.add("test", *test)
        augment = Augmentation(padding=4, flip=True)
        return writer.finish(mean=what.mean, std=what.std, augment=augment)


def _arrays(dataset: Any) -> tuple[Images, Labels]:
    images = np.asarray(dataset.data, np.uint8).transpose(0, 3, 1, 2)  # (N, H, W, C) → (N, C, H, W)
    return images, np.asarray(dataset.targets, np.int64)
