"""The sweep: what should go on and does not is brought on. Any process may do it; one does.

Every worker's main process and every web process asks every few seconds. A conditional UPDATE of one row
decides who acts, so nothing depends on a scheduler of its own that could be forgotten, or started twice.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from . import database, files, jobs, lifecycle, queue, shelves
from .models import Artifact, Pulse, Run

log = logging.getLogger(__name__)

NAME = "sweep"
EVERY = 5.0  # seconds
APART = timedelta(seconds=4)  # between two that act, whoever they are
MIB = 1 << 20
FILES = 64  # what a run makes until it ends: checkpoints, the student, a journal, and some to spare
DISK_REST = timedelta(seconds=15)  # a run that met a full disk is not sent back at once


def sweep(by: str) -> bool:
    """Does what is due, unless somebody has just done it. True: it was us."""
    if not _mine(by):
        return False
    lifecycle.mark_silent()
    lifecycle.end_silent()
    lifecycle.fail_orphans()
    resume_where_there_is_room()
    nudge()
    jobs.sweep()
    files.sweep_uploads()
    shelves.sweep()
    database.describe(int(time.time()) // 3600)
    return True


def _mine(by: str) -> bool:
    """One UPDATE that only one of many can make. A pulse in the future is of a clock that was set back."""
    pulse = Pulse.objects.filter(name=NAME)
    due = Q(at__lt=Now() - APART) | Q(at__gt=Now() + APART)
    if pulse.filter(due).update(at=Now(), by=by):
        return True
    if not pulse.exists():
        never = timezone.now() - timedelta(days=1)
        Pulse.objects.bulk_create([Pulse(name=NAME, at=never)], ignore_conflicts=True)
    return False


def nudge() -> None:
    """A message for each run that waits beyond those the broker holds already."""
    waiting = lifecycle.to_nudge()
    held = queue.waiting_messages(queue.RUNS) if waiting else None
    for run in waiting[held:] if held is not None else ():
        queue.send_run(run.pk)


def resume_where_there_is_room() -> None:
    """Runs that a full disk has paused go on once it could take several of their checkpoints."""
    for run in Run.objects.filter(status=Run.Status.PAUSED, hold=Run.Hold.DISK):
        if run.attempts.filter(ended__gt=Now() - DISK_REST).exists():
            continue
        largest = run.artifacts.filter(kind=Artifact.Kind.RESUME).order_by("-bytes").first()
        needed = 4 * largest.bytes + MIB if largest else 64 * MIB
        if all(_has_room(place, needed) for place in {Path(settings.KDWEB_DATA), run.folder}):
            lifecycle.room_again(run)


def _has_room(place: Path, needed: int) -> bool:
    """Bytes, and files as well, which run out on their own; some file systems count none."""
    if not place.exists():
        return True
    if shutil.disk_usage(place).free < needed:
        return False
    if not hasattr(os, "statvfs"):
        return True
    found = os.statvfs(place)
    return not found.f_files or found.f_favail >= FILES


def forever(by: str) -> None:
    """Of a web process, in a thread of its own: sweeps as long as it lives, whatever happens."""
    while True:
        try:
            sweep(by)
        except (DatabaseError, InterfaceError) as error:
            log.warning("The sweep waits for the database (%s).", error)
        except Exception:
            log.exception("The sweep")
        finally:
            connections.close_all()
        time.sleep(EVERY)


def start(by: str) -> None:
    threading.Thread(target=forever, args=(by,), name="sweep", daemon=True).start()
