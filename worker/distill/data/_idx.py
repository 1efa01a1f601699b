"""The IDX files of MNIST and its relatives: read them, download them, prepare a dataset from them."""

from __future__ import annotations

import gzip
import io
import math
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from worker.distill.data._report import log
from worker.distill.data._split import stratified
from worker.distill.data.prepared import Augmentation, Images, Labels, Meta, Writer
from worker.distill.events import Phase, Reporter
from worker.distill.spec import SpecError, Strict

MAX_BYTES = 1 << 30  # pixels in one file
SPLIT_SEED = 0
FILES = {"train": "train", "test": "t10k"}  # split → how its files' names begin
NO_NETWORK = "Name a folder on the server that holds the files, or allow the worker to reach the internet."


class Options(Strict):
    """Shared by all kinds that come as IDX files."""

    validation: int = Field(
        5000,
        ge=100,
        le=30_000,
        title="Validation images",
        description="Taken out of the training images, the same share of every class, always the same ones.",
    )
    training: int | None = Field(
        None,
        ge=100,
        le=60_000,
        title="Training images",
        description="Fewer than there are, the same share of every class, always the same ones. Empty: all.",
    )


@dataclass(frozen=True)
class IdxSet:
    """What tells one IDX dataset from another."""

    kind: str
    name: str  # torchvision's class, and the folder it makes
    classes: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augmentation


def prepare(what: IdxSet, options: Options, source: str | None, output: Path, report: Reporter) -> Meta:
    """Official training set split in train and val, official test set kept as test."""
    if source:
        report(Phase(name="data", detail=f"reading {what.name} from {source}"))
        arrays = {split: _read_split(Path(source), split, what) for split in FILES}
    else:
        report(Phase(name="data", detail=f"downloading {what.name}"))
        with tempfile.TemporaryDirectory() as folder:
            _download(what.name, folder)
            arrays = {split: _read_split(Path(folder), split, what) for split in FILES}
        log(report, f"{what.name} downloaded, checksums right")
    images, labels = arrays["train"]
    if options.validation > len(labels) // 2:
        problem = f"the training set has only {len(labels)} images."
        raise SpecError("options.validation", options.validation, problem, "Take at most half of them.")
    train, val = stratified(labels, options.validation, SPLIT_SEED)
    if options.training is not None:
        if options.training >= len(train):
            problem = f"{len(train)} training images are left beside the validation images."
            raise SpecError("options.training", options.training, problem, "Ask for fewer, or for all.")
        train = train[stratified(labels[train], options.training, SPLIT_SEED)[1]]
    height, width = images.shape[2:]
    with Writer(
        output, kind=what.kind, classes=what.classes, channels=1, height=height, width=width
    ) as writer:
        writer.add("train", images[train], labels[train])
        writer.add("val", images[val], labels[val])
        writer.add("test", *arrays["test"])
        return writer.finish(mean=what.mean, std=what.std, augment=what.augment)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """One IDX file of bytes, plain or gzipped: big-endian magic 0x08nn, nn sizes, then the bytes."""
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw
        try:
            return _read_idx(file, path, dimensions)
        except (EOFError, OSError, struct.error) as error:
            problem = f"the file {path.name} is cut off or damaged ({error})."
            raise SpecError("source", str(path), problem, "Copy it again.") from error


def _read_idx(file: IO[bytes], path: Path, dimensions: int) -> NDArray[np.uint8]:
    (magic,) = struct.unpack(">I", file.read(4))
    if magic != 0x0800 + dimensions:
        problem = f"{path.name} is not an IDX file of {dimensions} dimensions of bytes (magic {magic:#010x})."
        raise SpecError("source", str(path), problem, "Give the dataset's own files.")
    shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    size = math.prod(shape)
    if not 0 < size <= MAX_BYTES:
        raise SpecError("source", str(path), f"{path.name} claims the shape {shape}.", "Copy it again.")
    content = io.BytesIO(file.read(size + 1)).getbuffer()
    if len(content) != size:
        problem = f"{path.name} should hold {size:,} bytes of shape {shape} but holds {len(content):,}."
        raise SpecError("source", str(path), problem, "Copy it again.")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_split(folder: Path, split: str, what: IdxSet) -> tuple[Images, Labels]:
    images_file = _find(folder, what.name, f"{FILES[split]}-images", "idx3-ubyte")
    labels_file = _find(folder, what.name, f"{FILES[split]}-labels", "idx1-ubyte")
    images, labels = read_idx(images_file, 3)[:, None], read_idx(labels_file, 1).astype(np.int64)
    if len(images) != len(labels):
        problem = f"{images_file.name} has {len(images)} images but {labels_file.name} {len(labels)} labels."
        raise SpecError("source", str(folder), problem, "Take both files from the same dataset.")
    if labels.max() >= len(what.classes):
        problem = (
            f"{labels_file.name} has the label {labels.max()}, {what.name} has {len(what.classes)} classes."
        )
        raise SpecError("source", str(folder), problem, f"Give {what.name}'s own files.")
    return images, labels


def _find(folder: Path, name: str, stem: str, ending: str) -> Path:
    """Directly in the folder or where torchvision puts it; `train-images.idx3-ubyte` is also met."""
    for place in (folder, folder / name / "raw", folder / "raw"):
        for file in (f"{stem}-{ending}", f"{stem}.{ending}"):
            for path in (place / file, place / f"{file}.gz"):
                if path.is_file():
                    return path
    problem = f"there is no {stem}-{ending} (nor .gz), neither here nor in {name}/raw."
    raise SpecError("source", str(folder), problem, "Name the folder that holds the four IDX files.")


def _download(name: str, folder: str) -> None:
    from worker.distill.runtime import import_torchvision

    import_torchvision()
    from torchvision import datasets

    try:
        getattr(datasets, name)(folder, download=True)
    except (OSError, RuntimeError) as error:
        problem = f"{name} cannot be downloaded ({' '.join(str(error).split())[:200]})."
        raise SpecError("source", None, problem, NO_NETWORK) from error
