"""The one on-disk format every kind of dataset is converted to.

    <folder>/meta.json                     Meta
    <folder>/{train,val,test}_images.npy   uint8 (N, C, H, W); test is optional
    <folder>/{train,val,test}_labels.npy   int64 (N,); multi-label: uint8 (N, C) of zeros and ones
    <folder>/samples/<class>-<k>.png       thumbnails of training images

The folder appears in one rename, when everything in it is on disk: a preparation that crashed leaves
nothing that could be taken for a dataset.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from worker.distill.errors import naming
from worker.distill.spec import SpecError

SPLITS = ("train", "val", "test")
SAMPLES_PER_CLASS = 6
THUMBNAIL = 64  # a thumbnail's longer side is at least this and at most twice this, in pixels
Images = NDArray[np.uint8]
Labels = NDArray[np.integer[Any]]
Task = Literal["single-label", "multi-label"]


class Skipped(BaseModel):
    """A file that was left out, and why."""

    name: str
    reason: str


class Augmentation(BaseModel):
    """The dataset's standard augmentation (see augment.py)."""

    padding: int = 0
    padding_mode: Literal["zero", "reflect"] = "zero"
    flip: bool = False

    def lines(self, height: int, width: int) -> list[str]:
        """In words, for the dataset's page."""
        filled = {"zero": "black", "reflect": "reflected"}[self.padding_mode]
        crop = f"random {height} × {width} crop after padding by {self.padding} px ({filled})"
        return [crop] * bool(self.padding) + ["random mirroring left to right"] * self.flip


class Meta(BaseModel):
    """What stands in meta.json: everything about a prepared dataset but its pixels."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    kind: str
    task: Task = "single-label"
    classes: list[str]
    channels: int
    height: int
    width: int
    sizes: dict[str, int]
    mean: list[float]
    std: list[float]
    class_counts: dict[str, list[int]]  # images of each class, by split; of several classes in several
    augment: Augmentation
    augmentation: list[str]
    fingerprint: str
    samples: dict[str, list[str]]
    skipped: list[Skipped] = []
    warnings: list[str] = []

    def result(self) -> dict[str, Any]:
        """The `prepare` command's result."""
        return self.model_dump(mode="json", exclude={"format", "kind", "augment"})


@dataclass(frozen=True)
class Split:
    images: Images  # (N, C, H, W)
    labels: Labels  # (N,), or (N, C) of zeros and ones

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Prepared:
    folder: Path
    meta: Meta

    @property
    def evaluation_split(self) -> Literal["test", "val"]:
        """The split that final numbers are measured on."""
        return "test" if self.meta.sizes.get("test") else "val"

    def split(self, name: str) -> Split:
        """Memory-mapped; nothing is read before it is used."""
        if not self.meta.sizes.get(name):
            has = ", ".join(n for n in SPLITS if self.meta.sizes.get(n))
            raise SpecError("split", name, "the dataset has no such split.", f"It has: {has}.")
        shape = (self.meta.sizes[name], self.meta.channels, self.meta.height, self.meta.width)
        images = self._array(f"{name}_images.npy", shape, "uint8")
        row, dtype = _label_row(self.meta.task, len(self.meta.classes))
        return Split(images, self._array(f"{name}_labels.npy", (shape[0], *row), dtype))

    def _array(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        path = self.folder / name
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _damaged(self.folder, f"{name} cannot be read ({error})") from error
        if array.shape != shape or array.dtype != dtype:
            raise _damaged(self.folder, f"{name} is {array.dtype} {array.shape}, expected {dtype} {shape}")
        return array


def load(folder: str | Path) -> Prepared:
    """Open a prepared dataset. SpecError when the folder is none; OSError when it may not be read."""
    folder = Path(folder)
    try:
        meta = Meta.model_validate_json((folder / "meta.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        fix = "Prepare the dataset first."
        raise SpecError("dataset", str(folder), "there is no prepared dataset here.", fix) from error
    except ValidationError as error:
        raise _damaged(folder, "meta.json is not one of this version") from error
    return Prepared(folder, meta)


def _label_row(task: Task, classes: int) -> tuple[tuple[int, ...], str]:
    """(shape, dtype) of one image's label."""
    return ((classes,), "uint8") if task == "multi-label" else ((), "int64")


def _damaged(folder: Path, what: str) -> SpecError:
    return SpecError("dataset", str(folder), f"the prepared dataset is damaged: {what}.", "Prepare it again.")


class Writer:
    """Writes a prepared dataset row by row, so that memory stays bounded whatever its size.

    with Writer(output, kind="digits", classes=names, channels=1, height=8, width=8) as writer:
        writer.add("train", images, labels)
        meta = writer.finish()
    """

    def __init__(
        self,
        output: str | Path,
        *,
        kind: str,
        classes: list[str],
        channels: int,
        height: int,
        width: int,
        task: Task = "single-label",
    ) -> None:
        self.output = Path(output)
        self.kind, self.classes, self.task = kind, classes, task
        self.channels, self.height, self.width = channels, height, width
        self._columns: dict[str, tuple[_Column, _Column]] = {}
        self._counts = {name: np.zeros(len(classes), np.int64) for name in SPLITS}
        self._histogram = np.zeros((channels, 256), np.int64)  # of the training split's pixels
        self._samples: dict[str, list[str]] = {name: [] for name in classes}

    def __enter__(self) -> Self:
        _refuse_foreign(self.output)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        for stale in self.output.parent.glob(f".{self.output.name}.preparing-*"):
            shutil.rmtree(stale, ignore_errors=True)  # left by a preparation that was killed
        self._folder = self.output.parent / f".{self.output.name}.preparing-{uuid.uuid4().hex[:12]}"
        (self._folder / "samples").mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for column in (c for pair in self._columns.values() for c in pair):
            with suppress(OSError):  # of a disk that is full, which has been said
                column.file.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # gone already when `finish` renamed it

    def add(self, split: str, images: Images, labels: Labels) -> None:
        """Append rows: images (B, C, H, W) uint8, labels (B,), or (B, classes) of zeros and ones."""
        shape = (self.channels, self.height, self.width)
        row, dtype = _label_row(self.task, len(self.classes))
        labels = np.ascontiguousarray(labels, dtype)
        assert labels.shape[1:] == row, labels.shape
        assert images.shape == (len(labels), *shape), images.shape
        assert images.dtype == np.uint8, images.dtype
        if split not in self._columns:
            self._columns[split] = (
                _Column(self._folder / f"{split}_images.npy", shape, "uint8"),
                _Column(self._folder / f"{split}_labels.npy", row, dtype),
            )
        images_column, labels_column = self._columns[split]
        images_column.append(np.ascontiguousarray(images))
        labels_column.append(labels)
        rows, classes = _shown(labels)
        self._counts[split] += np.bincount(classes, minlength=len(self.classes))
        if split == "train":
            for channel in range(self.channels):
                self._histogram[channel] += np.bincount(images[:, channel].ravel(), minlength=256)
            self._thumbnails(images, rows, classes)

    def finish(
        self,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        augment: Augmentation | None = None,
        skipped: list[Skipped] | None = None,
        warnings: list[str] | None = None,
    ) -> Meta:
        """Make the dataset visible. mean, std: published constants instead of the measured ones."""
        measured_mean, measured_std = _mean_std(self._histogram)
        augment = augment or Augmentation()
        meta = Meta(
            kind=self.kind,
            task=self.task,
            classes=self.classes,
            channels=self.channels,
            height=self.height,
            width=self.width,
            sizes={n: self._columns[n][0].rows if n in self._columns else 0 for n in SPLITS},
            mean=list(mean or measured_mean),
            std=list(std or measured_std),
            class_counts={n: self._counts[n].tolist() for n in SPLITS if n in self._columns},
            augment=augment,
            augmentation=augment.lines(self.height, self.width),
            fingerprint="",
            samples=self._samples,
            skipped=skipped or [],
            warnings=warnings or [],
        )
        digests = {column.path.name: column.close() for pair in self._columns.values() for column in pair}
        meta.fingerprint = _fingerprint(meta, digests)
        self._publish(meta)
        return meta

    def _thumbnails(self, images: Images, rows: Labels, classes: Labels) -> None:
        for row, label in zip(rows, classes, strict=True):
            names = self._samples[self.classes[label]]
            if len(names) < SAMPLES_PER_CLASS:
                name = f"samples/{label}-{len(names)}.png"
                with naming(self._folder / name):
                    (self._folder / name).write_bytes(_thumbnail(images[row]))
                names.append(name)

    def _publish(self, meta: Meta) -> None:
        path = self._folder / "meta.json"
        with naming(path), open(path, "wb") as file:
            file.write(meta.model_dump_json(indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self._folder)
        old = self.output.parent / f".{self.output.name}.preparing-old-{uuid.uuid4().hex[:8]}"
        if self.output.exists():
            os.rename(self.output, old)
        os.rename(self._folder, self.output)
        _sync_folder(self.output.parent)
        shutil.rmtree(old, ignore_errors=True)


class _Column:
    """An append-only .npy file whose number of rows is written when it is known."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: str) -> None:
        self.path, self.row_shape, self.dtype, self.rows = path, row_shape, np.dtype(dtype), 0
        self.hash = hashlib.sha256()
        self.file = open(path, "wb")  # noqa: SIM115 - closed by the writer
        self.header_length = self.file.write(self._header())

    def append(self, rows: NDArray[Any]) -> None:
        with naming(self.path):
            self.file.write(rows.data)
        self.hash.update(rows.data)
        self.rows += len(rows)

    def close(self) -> str:
        """Write the header, force everything to disk; the content's sha256."""
        header = self._header()
        assert len(header) == self.header_length
        with naming(self.path):
            self.file.seek(0)
            self.file.write(header)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
        return self.hash.hexdigest()

    def _header(self) -> bytes:
        # numpy leaves room for 21 digits of the first axis, so the length does not depend on `rows`.
        buffer = io.BytesIO()
        head = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(buffer, head)
        return buffer.getvalue()


def _shown(labels: Labels) -> tuple[Labels, ...]:
    """(rows, classes): a pair for each class that an image shows."""
    if labels.ndim == 1:
        return np.arange(len(labels)), labels
    assert (labels <= 1).all(), labels.max()
    return np.nonzero(labels)


def _mean_std(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Exact mean and standard deviation per channel of pixels scaled to 0..1."""
    values = np.arange(256) / 255
    weights = histogram / np.maximum(histogram.sum(1, keepdims=True), 1)  # (C, 256)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    # A channel that never changes would divide by zero; one grey level is the smallest real spread.
    std = np.maximum(np.sqrt(variance), 1 / 255)
    return [round(float(x), 6) for x in mean], [round(float(x), 6) for x in std]


def _fingerprint(meta: Meta, digests: dict[str, str]) -> str:
    """sha256 over everything a training's result depends on: pixels, labels, names, augmentation."""
    what = {"format", "classes", "channels", "height", "width", "sizes", "mean", "std", "augment"}
    if meta.task != "single-label":  # so that what was prepared before there were others is still the same
        what.add("task")
    content = meta.model_dump(mode="json", include=what)
    return hashlib.sha256(json.dumps([content, digests], sort_keys=True).encode()).hexdigest()


def _thumbnail(image: Images) -> bytes:
    from PIL import Image

    channels, height, width = image.shape
    picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))
    longer = max(height, width)
    if longer < THUMBNAIL:
        times = -(-THUMBNAIL // longer)
        picture = picture.resize((width * times, height * times), Image.Resampling.NEAREST)
    elif longer > 2 * THUMBNAIL:
        picture.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _refuse_foreign(output: Path) -> None:
    """An earlier dataset may be replaced; anything else in the way is somebody's."""
    if output.is_dir() and not (output / "meta.json").is_file() and any(output.iterdir()):
        fix = "Give a new or an empty folder."
        raise SpecError("output", str(output), "the folder holds other files.", fix)
    if output.exists() and not output.is_dir():
        raise SpecError("output", str(output), "there is a file of that name.", "Give a new folder.")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a folder
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
