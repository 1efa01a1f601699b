"""Do rows and files agree? Reads everything, changes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from experiments.models import Dataset, Run, Upload

from . import FOLDERS, Say, manifest, stored
from .manifest import Progress
from .stored import Stored


@dataclass
class Report:
    problems: list[str] = field(default_factory=list)  # something that a row names is not what it should be
    strays: list[str] = field(default_factory=list)  # below the data folder, and no row names it
    checked: int = 0


def check(say: Say) -> Report:
    """Compare every row that names a file with the file, hash and all. Works while everything runs."""
    wanted = stored.named()
    paths = {one.path: path for one in wanted if (path := stored.find(one.path))}
    progress = Progress("checked", sum(_bytes(path) for path in paths.values()), say)
    differ = [one for one in wanted if one.path in paths and not _right(one, paths[one.path], progress)]
    bad = {one for one in wanted if one.path not in paths} | set(differ)
    gone = stored.lacking(wanted, lambda one: one.path in paths)
    still = set(stored.named())  # a run that goes on has dropped and written files meanwhile
    lines = [
        f"{one.path} {'differs from its hash' if one in differ else 'is missing'}: {one.what}."
        + stored.consequence(one, wanted, bad)
        for one in (*gone, *differ)
        if one in still
    ]
    return Report([*lines, *_other_datasets()], _strays({one.path for one in still}), len(wanted))


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _right(one: Stored, path: Path, progress: Progress) -> bool:
    if not one.sha256:
        return True
    try:
        return manifest.digest(path.resolve(), progress).sha256 == one.sha256
    except FileNotFoundError:
        return False


def _other_datasets() -> list[str]:
    """A folder that holds other data than the row describes: database and files are of different times."""
    lines = []
    for dataset in Dataset.objects.filter(status=Dataset.Status.READY):
        try:
            held = json.loads((dataset.folder / "meta.json").read_bytes())["fingerprint"]
        except FileNotFoundError:
            continue  # said already
        except (OSError, ValueError, KeyError, TypeError):
            held = "unreadable"
        if held != dataset.fingerprint:
            lines.append(f"datasets/{dataset.pk} holds other data than the dataset “{dataset.name}” had.")
    return lines


def _strays(named: set[str]) -> list[str]:
    """Entries of the folders that belong to no row; of runs that have ended, single files as well.

    What a worker is making at this moment lies beside its place, under a name that begins with its row's.
    """
    known = {
        "datasets": {str(pk) for pk in Dataset.objects.values_list("pk", flat=True)},
        "runs": {str(pk) for pk in Run.objects.values_list("pk", flat=True)},
        "uploads": {str(pk) for pk in Upload.objects.values_list("pk", flat=True)},
        "teachers": {path.removeprefix("teachers/") for path in named if path.startswith("teachers/")},
    }
    checking = Upload.objects.filter(status=Upload.Status.CHECKING).values_list("pk", flat=True)
    preparing = Dataset.objects.filter(status=Dataset.Status.PREPARING).values_list("pk", flat=True)
    making = {f"upload-{pk}" for pk in checking} | {str(pk) for pk in preparing}
    strays = [
        f"{folder}/{entry.name}"
        for folder in FOLDERS
        for entry in sorted((stored.root() / folder).iterdir())
        if entry.name not in known[folder] and entry.name.lstrip(".").partition(".")[0] not in making
    ]
    for run in Run.objects.filter(status__in=Run.ENDED):
        below = (path.relative_to(stored.root()).as_posix() for path in stored.regular_files(run.folder))
        strays += [path for path in below if path not in named]
    return strays
