"""Images sorted into one folder per class or listed in a table: a zip or tar, or a folder on the server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from worker.distill.data._archive import open_source
from worker.distill.data._container import Container, printable
from worker.distill.data._images import BrokenImage, Header, ImageBomb, Resize, decode, read_header
from worker.distill.data._layout import Item, Layout, find_images, read_layout, refuse_lost
from worker.distill.data._report import tracked
from worker.distill.data._split import stratified
from worker.distill.data._table import has_table, read_table
from worker.distill.data.prepared import SPLITS, Augmentation, Images, Meta, Skipped, Writer
from worker.distill.events import Phase, Reporter
from worker.distill.sandbox import Forbidden, TooMuchTime, fenced
from worker.distill.spec import SpecError, Strict

KEY = "image_folder"
TITLE = "Image folder"
SUMMARY = (
    "Your own pictures, one folder per class, optionally below train/, val/ and test/: "
    "a .zip or .tar.gz from the browser, or a folder on the server. Instead of class folders, a table "
    "labels.csv can give each image its labels, several or none: a line file,labels, then lines such as "
    "train/1.jpg,cat|dog."
)
SOURCE = "upload"
SPLIT_SEED = 0
MEMORY, CPU_SECONDS = 4 << 30, 4 * 3600  # to read everything
BATCH_BYTES = 16 << 20  # decoded pixels held in memory
MAX_LISTED = 1000  # left-out files named in the result
IMBALANCE = 20  # largest : smallest class from which a warning is due


class Options(Strict):
    image_size: int = Field(
        64, ge=8, le=512, title="Image size", description="Pixels a side; every image is brought to it."
    )
    resize: Resize = Field(
        "crop",
        title="Fitting",
        description="crop: the middle square. pad: the whole image on black. stretch: distorted.",
    )
    colour: Literal["auto", "rgb", "grey"] = Field(
        "auto", title="Colour", description="auto: grey when every image is grey, else RGB."
    )
    validation_share: float = Field(
        0.15,
        ge=0.01,
        le=0.5,
        title="Validation share",
        description="Taken out of every class's (or label's) training images when there is no val folder.",
    )
    flip: bool = Field(
        True,
        title="Mirroring",
        description="A mirrored image still shows its class. Switch off for text, digits or traffic signs.",
    )
    multi_label: bool = Field(
        False,
        title="Multi-label",
        description="Classes do not exclude each other, although every image here has just one. "
        "A table with several labels an image, or none, is multi-label anyway.",
    )


def prepare(options: Options, source: str | None, output: Path, report: Reporter) -> Meta:
    assert source is not None  # data.prepare has asked for it
    try:
        with fenced(memory=MEMORY, cpu_seconds=CPU_SECONDS):
            return _prepare(options, source, output, report)
    except (MemoryError, TooMuchTime, Forbidden) as error:
        problem = f"it cannot be read within the limits ({str(error) or 'too much memory'})."
        raise SpecError("source", Path(source).name, problem, "Split it or shrink its images.") from error


def _prepare(options: Options, source: str, output: Path, report: Reporter) -> Meta:
    report(Phase(name="data", detail="checking the archive"))
    with open_source(source) as container:
        images = find_images(container)
        read = read_table if has_table(container, images) else read_layout
        layout = read(container, images, "multi-label" if options.multi_label else "single-label")
        report(Phase(name="data", detail="checking the images"))
        headers = _inspect(container, layout, report)
        _hold_out(layout, options.validation_share)
        grey = all(header.grey for header in headers.values())
        channels: Literal[1, 3] = 1 if options.colour == "grey" or (options.colour == "auto" and grey) else 3
        _warn(layout, headers)
        return _write(options, container, layout, channels, output, report)


def _inspect(source: Container, layout: Layout, report: Reporter) -> dict[str, Header]:
    """Every image's header before any is decoded; broken ones leave the layout. Warns of equal files."""
    headers: dict[str, Header] = {}
    seen: dict[bytes, tuple[str, tuple[int, ...]]] = {}
    leaks = conflicts = 0
    items = [(split, item) for split in SPLITS for item in layout.splits[split]]
    for split, item in tracked(items, report):
        data = source.read(item.entry)
        try:
            headers[item.entry.name] = read_header(data)
        except ImageBomb as error:
            raise source.refuse(f"{item.entry.name} {error}.", "Shrink or remove it.") from error
        except BrokenImage as error:
            layout.skipped.append(Skipped(name=item.entry.name, reason=str(error)))
            continue
        digest = hashlib.blake2b(data, digest_size=16).digest()
        first_split, first_labels = seen.setdefault(digest, (split, item.labels))
        leaks += first_split != split
        conflicts += first_labels != item.labels
    for split in SPLITS:
        layout.splits[split] = [i for i in layout.splits[split] if i.entry.name in headers]
    _refuse_lost(source, layout, layout.splits["train"], bool(headers))
    if leaks:
        layout.warnings.append(f"{_images(leaks)} of val or test also in another split, byte for byte.")
    if conflicts:
        what = "two different classes" if layout.task == "single-label" else "different labels"
        layout.warnings.append(f"{_images(conflicts)} under {what}, byte for byte.")
    return headers


def _refuse_lost(source: Container, layout: Layout, train: list[Item], any_left: bool) -> None:
    if not any_left:
        one = layout.skipped[-1]
        raise source.refuse(f"no image can be read; {one.name} {one.reason}.", "Upload whole images.")
    refuse_lost(source, layout, train, "no readable images")


def _hold_out(layout: Layout, share: float) -> None:
    """Take validation images out of train where there is no val."""
    train = layout.splits["train"]
    if layout.splits["val"]:
        return
    kept, held = stratified(layout.labels(train), max(round(share * len(train)), 1), SPLIT_SEED)
    if not len(held):
        layout.splits["val"] = list(train)
        layout.warnings.append(
            "no class has a second image, so validation repeats the training images: "
            "its accuracy says nothing about new images."
        )
        return
    layout.splits["train"], layout.splits["val"] = [train[i] for i in kept], [train[i] for i in held]
    layout.warnings.append(
        f"there is no val folder: {len(held)} training images were set aside for validation."
    )


def _warn(layout: Layout, headers: dict[str, Header]) -> None:
    deep = sum(header.deep for header in headers.values())
    if deep:
        layout.warnings.append(f"{_images(deep)} of 16 bits a channel reduced to 8.")
    counts = layout.counts(layout.splits["train"])
    if counts.max() >= IMBALANCE * counts.min():
        most, least = (printable(layout.classes[i]) for i in (counts.argmax(), counts.argmin()))
        text = (
            f"the classes are uneven: {_images(counts.max())} of {most} in train, {counts.min()} of {least}."
        )
        layout.warnings.append(text)


def _images(number: int) -> str:
    return f"{number} image{'s' if number != 1 else ''}"


def _write(
    options: Options,
    source: Container,
    layout: Layout,
    channels: Literal[1, 3],
    output: Path,
    report: Reporter,
) -> Meta:
    size = options.image_size
    report(Phase(name="data", detail="decoding the images"))
    shape = {"channels": channels, "height": size, "width": size}
    with Writer(output, kind=KEY, task=layout.task, classes=layout.classes, **shape) as writer:
        written: list[Item] = []
        items = [(split, item) for split in SPLITS for item in layout.splits[split]]
        decoded = _decoded(options, source, layout, channels, tracked(items, report))
        for split, batch, pixels in _batches(decoded, BATCH_BYTES // (channels * size * size) + 1):
            writer.add(split, pixels, layout.labels(batch))
            written += batch if split == "train" else []
        _refuse_lost(source, layout, written, bool(written))
        if layout.skipped:
            number = len(layout.skipped)
            layout.warnings.append(
                f"{number} file{'s' if number > 1 else ''} left out; see the list of reasons."
            )
        return writer.finish(
            augment=Augmentation(padding=max(size // 8, 1), padding_mode="reflect", flip=options.flip),
            skipped=layout.skipped[:MAX_LISTED],
            warnings=layout.warnings,
        )


Decoded = tuple[str, Item, Images]


def _decoded(
    options: Options,
    source: Container,
    layout: Layout,
    channels: Literal[1, 3],
    items: Iterator[tuple[str, Item]],
) -> Iterator[Decoded]:
    for split, item in items:
        data = source.read(item.entry)
        try:
            pixels = decode(data, size=options.image_size, channels=channels, resize=options.resize)
        except BrokenImage as error:
            layout.skipped.append(Skipped(name=item.entry.name, reason=str(error)))
            continue
        yield split, item, pixels


def _batches(decoded: Iterator[Decoded], size: int) -> Iterator[tuple[str, list[Item], Images]]:
    """Runs of one split, at most `size` long."""
    batch: list[Decoded] = []
    for one in decoded:
        if batch and (len(batch) == size or batch[0][0] != one[0]):
            yield batch[0][0], [item for _, item, _ in batch], np.stack([pixels for _, _, pixels in batch])
            batch = []
        batch.append(one)
    if batch:
        yield batch[0][0], [item for _, item, _ in batch], np.stack([pixels for _, _, pixels in batch])
