"""Put a backup onto an empty home and an empty database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Now

from experiments.models import ArchitectureProfile, Dataset, Run, RunEvent, Upload, Worker

from . import FOLDERS, BackupError, Say, database, manifest, stored
from .manifest import Manifest, Progress


def restore(source: Path, say: Say) -> Manifest:
    """Everything of the backup, or a BackupError; nothing is touched before every hash was verified."""
    source = source.expanduser().absolute()
    found = manifest.read(source)
    for problem in _objections(found):
        raise BackupError(problem)
    say(f"Verifying {len(found.files)} files, {manifest.size(found.bytes)}.")
    progress = Progress("verified", found.bytes, say)
    try:
        for name, file in found.files.items():
            manifest.verified(source, name, file, progress)
    except OSError as error:
        raise BackupError(f"The backup cannot be read ({error}): nothing was touched.") from error
    _put(source, found, say)
    call_command("migrate", verbosity=0, interactive=False)
    _settle(found)
    return found


def _objections(found: Manifest) -> Iterator[str]:
    """Why it cannot be restored here."""
    if found.database != connection.vendor:
        yield (
            f"The backup is of a {found.database} database, this one is {connection.vendor}: set "
            "KDWEB_DATABASE_URL to one of that kind."
        )
    if newer := manifest.unknown_migrations(found):
        yield (
            f"The backup was made by a newer kdweb ({found.kdweb}; unknown here: {', '.join(newer[:3])}): "
            "install that version or a later one."
        )
    if database.tables():
        yield f"The {database.where()} is not empty: name a new one, with KDWEB_HOME or KDWEB_DATABASE_URL."
    for folder in FOLDERS:
        if any((stored.root() / folder).glob("*")):
            yield f"{stored.root() / folder} is not empty: set KDWEB_HOME to a new folder."
    free = shutil.disk_usage(stored.root()).free
    if found.bytes > free:
        need, there = manifest.size(found.bytes), manifest.size(free)
        yield f"The backup needs {need}, {there} are free in {stored.root()}: choose a larger disk."


def _put(source: Path, found: Manifest, say: Say) -> None:
    """Files aside first, then the database in one step, then the files to their places."""
    aside = stored.root() / ".restoring"
    shutil.rmtree(aside, ignore_errors=True)  # what a killed restore left
    try:
        progress = Progress("copied", found.bytes, say)
        for path, file in found.stored.items():
            manifest.verified(source, f"files/{path}", file, progress, aside / path)
        database.load(source / found.dump)
        for folder in FOLDERS:
            for entry in (aside / folder).glob("*"):
                shutil.move(entry, stored.root() / folder / entry.name)
    except OSError as error:
        raise BackupError(f"The restore was cut short ({error}): try again with a new KDWEB_HOME.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _settle(found: Manifest) -> None:
    """Whoever held something when the backup was made is not here: all of it is free again at once."""
    orphans = Run.objects.filter(status__in=Run.ACTIVE)
    text = f"Restored from the backup of {found.made:%Y-%m-%d %H:%M} UTC; goes on from its last checkpoint."
    RunEvent.objects.bulk_create(
        [RunEvent(run=run, status=run.status, text=text, actor="restore") for run in orphans]
    )
    orphans.update(lease_expires=Now())
    for kind in (Dataset, Upload, ArchitectureProfile):
        kind._default_manager.update(lease_owner="", lease_expires=None)
    # Half an upload is not in a backup. Whoever continues it is told to send it from the start.
    Upload.objects.filter(status=Upload.Status.RECEIVING).update(received=0)
    Worker.objects.all().delete()  # those that live announce themselves
