"""Make a backup while everything runs.

Rows and files change all the time, and a running engine drops a checkpoint as soon as it has two newer ones.
So files are held first: a hard link costs nothing and outlives the name. No file that a row names is ever
written in place (each is written aside and renamed; an upload is whole before its row says so), so a held
file stays what it is. Then the database is frozen in a snapshot, what it names is held as well, and only
when the snapshot names nothing that is not held is it dumped. Copying, the long part, comes after that.

Journals of a database that was away are left out: what they hold is done again from the last checkpoint.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from django.contrib.auth import get_user_model
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from experiments.models import Dataset, Project, Run, Teacher

from . import BackupError, Say, database, manifest, stored
from .manifest import File, Manifest, Progress
from .stored import Stored

ROUNDS = 3  # a file can go in the instant between holding and freezing; hardly ever twice


def make(target: Path, say: Say) -> Manifest:
    """A backup in the new folder `target`. BackupError says why there is none; then nothing is left of it."""
    target = target.expanduser().absolute()
    partial = target.parent / f"{target.name}.partial"
    _refuse(target, partial)
    try:
        with _alone() as links:
            return _make(target, partial, links, say)
    except OSError as error:
        problem = f"The backup was not made ({error}); what there was of it is removed."
        raise BackupError(problem) from error


def _make(target: Path, partial: Path, links: Path, say: Say) -> Manifest:
    try:
        partial.mkdir(mode=0o700, parents=True)
        made = _fill(partial, Held(links, partial / "files"), say)
        os.rename(partial, target)
        return made
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse(target: Path, partial: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(f"{target} is there already: give the name of a new folder.")
    if partial.exists():
        raise BackupError(f"{partial} is what a backup that was cut short left: remove it, then try again.")


@contextmanager
def _alone() -> Iterator[Path]:
    """A folder for held files, beside the originals: a hard link cannot cross file systems."""
    folder = stored.root() / ".backing-up"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise BackupError("Another backup is being made at this moment: wait for its end.") from None
    try:
        _empty(folder)  # what a killed one left
        yield folder
    finally:
        _empty(folder)  # it stays itself: whoever waits for its lock must find the same one
        os.close(lock)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True)


class Held:
    """Files that can no longer vanish: linked beside the originals, or else copied at once."""

    def __init__(self, links: Path, copies: Path) -> None:
        self.links, self.copies = links, copies
        self.linked: dict[str, int] = {}  # path → bytes
        self.copied: dict[str, File] = {}

    def __contains__(self, one: Stored) -> bool:
        return one.path in self.linked or one.path in self.copied

    def hold(self, one: Stored) -> None:
        if one in self or (source := stored.find(one.path)) is None:
            return
        link = self.links / one.path
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), link)
            self.linked[one.path] = link.stat().st_size
        except FileNotFoundError:
            return
        except OSError:  # a file system without links
            try:
                self.copied[one.path] = manifest.digest(source.resolve(), target=self.copies / one.path)
            except FileNotFoundError:
                return

    def copy(self, wanted: list[Stored], say: Say) -> dict[str, File]:
        """Everything wanted that is held is in the backup now: path → hash and size."""
        linked = [one.path for one in wanted if one.path in self.linked]
        total = sum(self.linked[path] for path in linked)
        free = shutil.disk_usage(self.copies.parent).free
        if total > free:
            need, there = manifest.size(total), manifest.size(free)
            raise BackupError(f"The backup needs {need} more, {there} are free there: choose another place.")
        progress = Progress("copied", total, say)
        for path in linked:
            self.copied[path] = manifest.digest(self.links / path, progress, self.copies / path)
        unwanted = self.copied.keys() - {one.path for one in wanted}
        for path in unwanted:
            (self.copies / path).unlink()
        return {path: file for path, file in self.copied.items() if path not in unwanted}


def _fill(partial: Path, held: Held, say: Say) -> Manifest:
    kind = connection.vendor
    dump = partial / database.DUMPS[kind]
    wanted, facts = _freeze(held, dump)
    say(f"Dumped the database ({manifest.size(dump.stat().st_size)}); now the files.")
    files = held.copy(wanted, say)
    found = {dump.name: manifest.digest(dump)} | {f"files/{path}": file for path, file in files.items()}
    made = Manifest(database=kind, files=found, missing=_problems(wanted, files), **facts)
    manifest.write(partial, made)
    return made


def _freeze(held: Held, dump: Path) -> tuple[list[Stored], dict[str, object]]:
    """The database at a moment at which all it names is held: (what it names, what to say about it)."""
    for number in range(ROUNDS):
        for one in stored.named():
            held.hold(one)
        with database.snapshot() as dump_to:
            wanted = stored.named()
            for one in wanted:
                held.hold(one)
            if stored.lacking(wanted, held.__contains__) and number < ROUNDS - 1:
                continue
            facts = _facts()
            dump_to(dump)
            dump.chmod(0o600)
            break
    return wanted, facts


def _facts() -> dict[str, object]:
    migrations: dict[str, list[str]] = {}
    for app, name in sorted(MigrationRecorder(connection).applied_migrations()):
        migrations.setdefault(app, []).append(name)
    counted = (Project, Dataset, Teacher, Run, get_user_model())
    counts = {f"{model._meta.verbose_name_plural}": model._default_manager.count() for model in counted}
    try:
        ours = version("kdweb")
    except PackageNotFoundError:  # run from a folder of sources
        ours = "unknown"
    return {"kdweb": ours, "made": timezone.now(), "migrations": migrations, "counts": counts}


def _problems(wanted: list[Stored], files: dict[str, File]) -> list[str]:
    """What is amiss in the file store itself. It is backed up as it is, and said."""
    gone = stored.lacking(wanted, lambda one: one.path in files)
    differ = [
        one for one in wanted if one.sha256 and one.path in files and files[one.path].sha256 != one.sha256
    ]
    bad = [one for one in wanted if one.path not in files] + differ
    lines = [f"{one.path} is missing: {one.what}.{stored.consequence(one, wanted, bad)}" for one in gone]
    lines += [f"{one.path} is damaged: {one.what}.{stored.consequence(one, wanted, bad)}" for one in differ]
    return lines
