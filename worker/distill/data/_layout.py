"""Which file of an image folder belongs to which class and split.

train/<class>/…  val|valid|validation/<class>/…  test/<class>/…     or
<class>/…                                                            either below one wrapping folder

or by a table, labels.csv: see _table.py.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from worker.distill.data._container import Container, Entry, printable
from worker.distill.data._images import EXTENSIONS
from worker.distill.data.prepared import SPLITS, Labels, Skipped, Task

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
MAX_CLASSES, MAX_CLASS_NAME = 10_000, 100
STRUCTURE = "Make one folder per class, e.g. train/cat/1.jpg and train/dog/1.jpg."


@dataclass(frozen=True)
class Item:
    """One image file and the classes it shows: one, or for multi-label any number, ascending."""

    entry: Entry
    labels: tuple[int, ...]


@dataclass
class Layout:
    classes: list[str]
    splits: dict[str, list[Item]]
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    task: Task = "single-label"

    def labels(self, items: list[Item]) -> Labels:
        """As a prepared dataset holds them: (B,), or (B, C) of zeros and ones."""
        if self.task == "single-label":
            return np.array([item.labels[0] for item in items], np.int64)
        marks = np.zeros((len(items), len(self.classes)), np.uint8)
        for row, item in enumerate(items):
            marks[row, list(item.labels)] = 1
        return marks

    def counts(self, items: list[Item]) -> NDArray[np.int64]:
        """(C,) images of each class."""
        shown = np.array([label for item in items for label in item.labels], np.int64)
        return np.bincount(shown, minlength=len(self.classes))


def find_images(source: Container) -> list[Entry]:
    """The files that claim to be images. SpecError when there are none."""
    if not source.entries:
        raise source.refuse("it is empty.", STRUCTURE)
    images = [e for e in source.entries if not e.is_dir and e.parts[-1].lower().endswith(EXTENSIONS)]
    if not images:
        raise source.refuse("there is no image in it.", STRUCTURE)
    return images


def read_layout(source: Container, images: list[Entry], task: Task = "single-label") -> Layout:
    """Find classes and splits by folder names. SpecError names what is wrong."""
    depth = _wrapping(source.entries, images)
    named = [(entry, entry.parts[depth:]) for entry in source.entries if len(entry.parts) > depth]
    folders = _split_folders(source, {parts[0] for _, parts in named if len(parts) > 1})
    classes = _classes(source, named, folders)
    layout = Layout(classes, {split: [] for split in SPLITS}, foreign(source.entries), task=task)
    _assign(layout, images, depth, folders)
    _check_classes(source, layout, named, folders)
    layout.warnings += source.warnings + lookalikes(classes)
    return layout


def _wrapping(entries: list[Entry], images: list[Entry]) -> int:
    """1 when everything of interest lies in one folder that is neither a split nor the only class."""
    top = {e.parts[0] for e in images} | {e.parts[0] for e in entries if e.is_dir}
    deep = any(len(e.parts) > 2 for e in images)
    return int(len(top) == 1 and deep and next(iter(top)).lower() not in SPLIT_NAMES)


def _split_folders(source: Container, top: set[str]) -> dict[str, str]:
    """Folder name → split; empty when the classes lie at the root (a class may well be called 'valid')."""
    folders = {name: SPLIT_NAMES[name.lower()] for name in sorted(top) if name.lower() in SPLIT_NAMES}
    if "train" not in folders.values():
        if folders and len(folders) == len(top):
            found = ", ".join(folders)
            raise source.refuse(f"there is {found} but no train folder.", "Add train/<class>/ folders.")
        return {}
    if len(set(folders.values())) < len(folders):
        twice = ", ".join(folders)
        raise source.refuse(f"several folders mean the same split: {twice}.", "Keep one folder per split.")
    return folders


def _class_of(parts: tuple[str, ...], folders: dict[str, str]) -> tuple[str, str | None]:
    """(split, class) of a file by its name below the root; class None when it lies in no class folder."""
    if not folders:
        return "train", parts[0] if len(parts) > 1 else None
    split = folders.get(parts[0], "")
    return split, parts[1] if split and len(parts) > 2 else None


Named = list[tuple[Entry, tuple[str, ...]]]


def _classes(source: Container, named: Named, folders: dict[str, str]) -> list[str]:
    """The class folders of the training split, sorted; an empty one counts (and is refused later)."""
    found = set()
    for entry, parts in named:
        split, name = _class_of((*parts, "") if entry.is_dir else parts, folders)
        if split == "train" and name is not None:
            found.add(name)
    if not found:
        raise source.refuse("there are no class folders, only loose files.", STRUCTURE)
    return names_of(source, found, "class")


def names_of(source: Container, found: set[str], what: str) -> list[str]:
    """The classes, sorted. SpecError when there is only one or there are too many, or a name is too long."""
    if len(found) == 1:
        only = printable(next(iter(found)))
        problem = f"there is only one {what} ({only}); training needs at least 2."
        fix = STRUCTURE if what == "class" else "Name what the other images show, too."
        raise source.refuse(problem, fix)
    if len(found) > MAX_CLASSES:
        problem = f"there are {len(found):,} classes, allowed are {MAX_CLASSES:,}."
        raise source.refuse(problem, STRUCTURE)
    for name in found:
        if len(name) > MAX_CLASS_NAME:
            problem = f"the {what} name {printable(name)} is longer than {MAX_CLASS_NAME} characters."
            raise source.refuse(problem, "Shorten it.")
    return sorted(found)


def _assign(layout: Layout, images: list[Entry], depth: int, folders: dict[str, str]) -> None:
    labels = {name: label for label, name in enumerate(layout.classes)}
    for entry in sorted(images, key=lambda e: e.parts):
        split, name = _class_of(entry.parts[depth:], folders)
        if name is None:
            reason = "lies in no class folder" if split else "lies in neither train, val nor test"
            layout.skipped.append(Skipped(name=entry.name, reason=reason))
        elif name in labels:
            layout.splits[split].append(Item(entry, (labels[name],)))


def _check_classes(source: Container, layout: Layout, named: Named, folders: dict[str, str]) -> None:
    """Every class has training images; the other splits know no other classes."""
    refuse_lost(source, layout, layout.splits["train"], "no images")
    per_split: dict[str, set[str]] = defaultdict(set)
    for entry, parts in named:
        split, name = _class_of((*parts, "") if entry.is_dir else parts, folders)
        if split and name is not None:
            per_split[split].add(name)
    refuse_unknown(source, layout.classes, per_split)
    refuse_incomplete(source, layout)


def refuse_unknown(source: Container, classes: list[str], per_split: dict[str, set[str]]) -> None:
    """SpecError when val or test has classes that train has not."""
    for split in ("val", "test"):
        unknown = sorted(per_split.get(split, set()) - set(classes))
        if unknown:
            problem = f"{split} has classes that train has not: {listed(unknown)}."
            raise source.refuse(problem, "Give every split the same classes.")


def refuse_incomplete(source: Container, layout: Layout) -> None:
    """SpecError when val or test has images, but not of every class; in multi-label data one may be rare."""
    if layout.task == "multi-label":
        return
    for split in ("val", "test"):
        missing = _without(layout, layout.splits[split])
        if missing and layout.splits[split]:
            problem = f"{split} has no images of the classes {listed(missing)}, which train has."
            raise source.refuse(problem, "Give every split the same classes.")


def _without(layout: Layout, items: list[Item]) -> list[str]:
    return [name for name, n in zip(layout.classes, layout.counts(items), strict=True) if not n]


def refuse_lost(source: Container, layout: Layout, train: list[Item], what: str) -> None:
    """SpecError when a class has no training images (any more)."""
    empty = _without(layout, train)
    if empty:
        many = "classes have" if len(empty) > 1 else "class has"
        raise source.refuse(f"the {many} {what}: {listed(empty)}.", "Add images or leave the class out.")


def foreign(entries: list[Entry], tables: Collection[Entry] = ()) -> list[Skipped]:
    """Files that do not claim to be images, and are no table of labels either."""
    files = [e for e in entries if not e.is_dir and not e.parts[-1].lower().endswith(EXTENSIONS)]
    files = [e for e in files if e not in tables]
    endings = [printable(PurePath(e.parts[-1]).suffix) or "no ending" for e in files]
    return [
        Skipped(name=e.name, reason=f"not an image file ({x})") for e, x in zip(files, endings, strict=True)
    ]


def lookalikes(classes: list[str]) -> list[str]:
    """Class names that a reader cannot tell apart: invisible characters, composed or not, upper or lower."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        visible = "".join(c for c in name if unicodedata.category(c) != "Cf")
        groups[unicodedata.normalize("NFKC", visible).casefold()].append(name)
    hidden = [n for n in classes if printable(n) != n]
    warnings = [f"class names look alike: {listed(names)}." for names in groups.values() if len(names) > 1]
    if hidden:
        warnings.append(f"class names with invisible characters: {listed(hidden)}.")
    return warnings


def listed(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
