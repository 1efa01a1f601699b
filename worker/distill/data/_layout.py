"""Which file of an image folder belongs to which class and split.

train/<class>/…  val|valid|validation/<class>/…  test/<class>/…     or
<class>/…                                                            either below one wrapping folder
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import PurePath

from worker.distill.data._container import Container, Entry, printable
from worker.distill.data._images import EXTENSIONS
from worker.distill.data.prepared import SPLITS, Skipped

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
    """One image file and what it shows."""

    entry: Entry
    label: int


@dataclass
class Layout:
    classes: list[str]
    splits: dict[str, list[Item]]
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_layout(source: Container) -> Layout:
    """Find classes and splits by folder names. SpecError names what is wrong."""
    if not source.entries:
        raise source.refuse("it is empty.", STRUCTURE)
    images = [e for e in source.entries if not e.is_dir and e.parts[-1].lower().endswith(EXTENSIONS)]
    if not images:
        raise source.refuse("there is no image in it.", STRUCTURE)
    depth = _wrapping(source.entries, images)
    named = [(entry, entry.parts[depth:]) for entry in source.entries if len(entry.parts) > depth]
    folders = _split_folders(source, {parts[0] for _, parts in named if len(parts) > 1})
    classes = _classes(source, named, folders)
    layout = Layout(classes, {split: [] for split in SPLITS}, _ignored(source.entries))
    _assign(layout, images, depth, folders)
    _check_classes(source, layout, named, folders)
    layout.warnings += source.warnings + _lookalikes(classes)
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
    if len(found) == 1:
        only = printable(next(iter(found)))
        raise source.refuse(f"there is only one class ({only}); training needs at least 2.", STRUCTURE)
    if len(found) > MAX_CLASSES:
        raise source.refuse(
            f"there are {len(found):,} class folders, allowed are {MAX_CLASSES:,}.", STRUCTURE
        )
    for name in found:
        if len(name) > MAX_CLASS_NAME:
            problem = f"the class name {printable(name)} is longer than {MAX_CLASS_NAME} characters."
            raise source.refuse(problem, "Shorten the folder's name.")
    return sorted(found)


def _assign(layout: Layout, images: list[Entry], depth: int, folders: dict[str, str]) -> None:
    labels = {name: label for label, name in enumerate(layout.classes)}
    for entry in sorted(images, key=lambda e: e.parts):
        split, name = _class_of(entry.parts[depth:], folders)
        if name is None:
            reason = "lies in no class folder" if split else "lies in neither train, val nor test"
            layout.skipped.append(Skipped(name=entry.name, reason=reason))
        elif name in labels:
            layout.splits[split].append(Item(entry, labels[name]))


def _check_classes(source: Container, layout: Layout, named: Named, folders: dict[str, str]) -> None:
    """Every class has training images; the other splits know no other classes."""
    have = {item.label for item in layout.splits["train"]}
    refuse_empty(source, [name for label, name in enumerate(layout.classes) if label not in have])
    per_split: dict[str, set[str]] = defaultdict(set)
    for entry, parts in named:
        split, name = _class_of((*parts, "") if entry.is_dir else parts, folders)
        if split and name is not None:
            per_split[split].add(name)
    for split in ("val", "test"):
        if split not in per_split:
            continue
        unknown = sorted(per_split[split] - set(layout.classes))
        if unknown:
            problem = f"{split} has classes that train has not: {listed(unknown)}."
            raise source.refuse(problem, "Give every split the same class folders.")
        present = {item.label for item in layout.splits[split]}
        missing = [name for label, name in enumerate(layout.classes) if label not in present]
        if missing and present:
            problem = f"{split} has no images of the classes {listed(missing)}, which train has."
            raise source.refuse(problem, "Give every split the same class folders.")


def refuse_empty(source: Container, empty: list[str], what: str = "no images") -> None:
    if empty:
        many = "classes have" if len(empty) > 1 else "class has"
        raise source.refuse(f"the {many} {what}: {listed(empty)}.", "Add images or remove the folder.")


def _ignored(entries: list[Entry]) -> list[Skipped]:
    """Files that do not claim to be images."""
    files = [e for e in entries if not e.is_dir and not e.parts[-1].lower().endswith(EXTENSIONS)]
    endings = [printable(PurePath(e.parts[-1]).suffix) or "no ending" for e in files]
    return [
        Skipped(name=e.name, reason=f"not an image file ({x})") for e, x in zip(files, endings, strict=True)
    ]


def _lookalikes(classes: list[str]) -> list[str]:
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
