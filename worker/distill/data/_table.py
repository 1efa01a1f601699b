"""Which labels an image has by a table beside the images: labels.csv in the root, or one in each split.

file,labels
train/1.jpg,cat|dog          `file` is relative to the table's folder; several labels are parted by |
train/2.jpg,                 no label
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from worker.distill.data._container import Container, Entry, printable
from worker.distill.data._layout import (
    SPLIT_NAMES,
    Item,
    Layout,
    foreign,
    lookalikes,
    names_of,
    refuse_incomplete,
    refuse_unknown,
)
from worker.distill.data.prepared import SPLITS, Skipped, Task

TABLE = "labels.csv"
HEADER = ["file", "labels"]
SEPARATOR = "|"
FORM = "Write file,labels in the first line, then one line an image, e.g. train/1.jpg,cat|dog."


@dataclass(frozen=True)
class Row:
    where: str  # the table and the line, for messages
    entry: Entry
    split: str
    labels: list[str]


def has_table(source: Container, images: list[Entry]) -> bool:
    """Whether there is a table where one is looked for: no deeper than a split's folder."""
    return bool(_tables(source, images)[0])


def read_table(source: Container, images: list[Entry], task: Task = "single-label") -> Layout:
    """Labels and splits by the tables' rows. SpecError names table, line and what is wrong.

    Whatever `task` says, it is multi-label when an image has several labels or none.
    """
    tables, depth = _tables(source, images)
    prefixes = _prefixes(source, tables, depth)
    known = {_normal("/".join(e.parts[depth:])): e for e in images}
    found: dict[tuple[str, ...], Row] = {}
    for table, prefix in prefixes.items():
        for where, file, labels in _lines(source, table):
            row = _row(source, known, prefix, where, file, labels)
            if earlier := found.get(row.entry.parts):
                problem = f"{where}: {row.entry.name} has a row already ({earlier.where})."
                raise source.refuse(problem, "Give every image one row, with all of its labels.")
            found[row.entry.parts] = row
    rows = list(found.values())
    if any(len(row.labels) != 1 for row in rows):
        task = "multi-label"
    return _layout(source, images, rows, tables, task)


# ---- finding and reading -----------------------------------------------------------------------------


def _tables(source: Container, images: list[Entry]) -> tuple[list[Entry], int]:
    """The tables, and how many folders lie around everything of interest: one or none."""
    tables = [e for e in source.entries if not e.is_dir and e.parts[-1].lower() == TABLE]
    top = {e.parts[0] for e in [*images, *tables]}
    wrapped = len(top) == 1 and next(iter(top)).lower() not in SPLIT_NAMES
    depth = int(wrapped and all(len(e.parts) > 1 for e in [*images, *tables]))
    return [e for e in tables if len(e.parts) - depth <= 2], depth


def _prefixes(source: Container, tables: list[Entry], depth: int) -> dict[Entry, str]:
    """Each table's folder, with a closing slash; the root's is empty."""
    folders = {table: "/".join(table.parts[depth:-1]) for table in tables}
    for table, folder in folders.items():
        if not folder and len(tables) > 1:
            other = next(t.name for t in tables if t is not table)
            raise source.refuse(f"there is {table.name} and also {other}.", "Keep one, or one in each split.")
        if folder and folder.lower() not in SPLIT_NAMES:
            problem = f"{table.name} lies in the folder {printable(folder)}, which is no split."
            raise source.refuse(problem, "Name the folder train, val or test, or move the table to the root.")
    return {table: folder and f"{folder}/" for table, folder in folders.items()}


def _lines(source: Container, table: Entry) -> Iterator[tuple[str, str, str]]:
    """(where, file, labels) of each line after the header."""
    try:
        text = source.read(table).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise source.refuse(f"{table.name} is not UTF-8 text.", "Save it as CSV in UTF-8.") from error
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, [])
        if [cell.strip().lower() for cell in header] != HEADER:
            shown = printable(",".join(header)) or "empty"
            problem = f"{table.name} line 1: the header is {shown}, not file,labels."
            raise source.refuse(problem, f"{FORM} Or remove the table, to go by class folders.")
        for cells in lines:
            where = f"{table.name} line {lines.line_num}"
            if not cells:
                continue
            if len(cells) != len(HEADER):
                problem = f"{where}: {len(cells)} columns, not file and labels."
                raise source.refuse(problem, "Part labels by |, and put names with a comma in quotes.")
            yield where, cells[0].strip(), cells[1]
    except csv.Error as error:
        problem = f"{table.name} line {lines.line_num}: it is no CSV ({error})."
        raise source.refuse(problem, FORM) from error


def _row(source: Container, known: dict[str, Entry], prefix: str, where: str, file: str, labels: str) -> Row:
    path = prefix + file.removeprefix("./")
    entry = known.get(_normal(path))
    if entry is None:
        fix = "Add the image, correct its name or remove the line."
        raise source.refuse(f"{where}: there is no image {printable(path) or 'without a name'}.", fix)
    names = [name.strip() for name in labels.split(SEPARATOR)] if labels.strip() else []
    if "" in names:
        raise source.refuse(f"{where}: a label is empty in {printable(labels)}.", "Remove the | too many.")
    if len(set(names)) < len(names):
        raise source.refuse(f"{where}: a label is there twice in {printable(labels)}.", "Keep it once.")
    first, _, rest = path.partition("/")
    return Row(where, entry, first if rest else "", names)


def _normal(path: str) -> str:
    """One form of a name: a Mac's archives decompose ü, a spreadsheet's table does not."""
    return unicodedata.normalize("NFC", path)


# ---- what it comes to ----------------------------------------------------------------------------------


def _layout(
    source: Container, images: list[Entry], rows: list[Row], tables: list[Entry], task: Task
) -> Layout:
    splits = _splits(source, rows)
    per_split: dict[str, set[str]] = {}
    for row in rows:
        per_split.setdefault(splits[row.where], set()).update(row.labels)
    if not per_split.get("train"):
        raise source.refuse(f"{tables[0].name}: no line of a training image names a label.", FORM)
    classes = names_of(source, per_split["train"], "label")
    refuse_unknown(source, classes, per_split)
    layout = Layout(classes, {split: [] for split in SPLITS}, foreign(source.entries, tables), task=task)
    number = {name: label for label, name in enumerate(classes)}
    for row in sorted(rows, key=lambda r: r.entry.parts):
        marks = tuple(sorted(number[name] for name in row.labels))
        layout.splits[splits[row.where]].append(Item(row.entry, marks))
    refuse_incomplete(source, layout)
    listed = {row.entry.parts for row in rows}
    layout.skipped += [
        Skipped(name=e.name, reason=f"has no row in {TABLE}") for e in images if e.parts not in listed
    ]
    layout.warnings += source.warnings + lookalikes(classes)
    return layout


def _splits(source: Container, rows: list[Row]) -> dict[str, str]:
    """The split of each row by its image's first folder; all train where no row's folder is a split."""
    named = {row.where: SPLIT_NAMES.get(row.split.lower()) for row in rows}
    if not any(named.values()):
        return dict.fromkeys(named, "train")
    for row in rows:
        if named[row.where] is None:
            folder = f"in the folder {printable(row.split)}" if row.split else "in no folder"
            problem = f"{row.where}: {row.entry.name} lies {folder}, which is no split."
            raise source.refuse(problem, "Move it to train/, val/ or test/, as the others are.")
    found = {row.where: split for row in rows if (split := named[row.where])}
    if "train" not in found.values():
        raise source.refuse("no line is of the train folder.", "Add images of train/ to the table.")
    for split in SPLITS:
        folders = {row.split for row in rows if found[row.where] == split}
        if len(folders) > 1:
            twice = ", ".join(sorted(folders))
            raise source.refuse(
                f"several folders mean the same split: {twice}.", "Keep one folder per split."
            )
    return found
