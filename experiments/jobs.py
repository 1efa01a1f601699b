"""Short work that is not a run: datasets to prepare, uploads to check, architectures to profile.

The same rules as for runs: the row is the truth, a worker holds it by a lease, and writes only while the
lease is its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from django.db.models import F, Q
from django.db.models.functions import Now

from . import queue
from .lifecycle import TTL
from .models import ArchitectureProfile, Dataset, Upload
from .models.leases import Leased

MAX_TRIES = 3
WAITING: dict[type[Leased], Q] = {
    Dataset: Q(status=Dataset.Status.PREPARING),
    Upload: Q(status=Upload.Status.CHECKING),
    ArchitectureProfile: Q(status=ArchitectureProfile.Status.WAITING),
}
SEND: dict[type[Leased], Callable[[Any], None]] = {
    Dataset: queue.send_dataset,
    Upload: queue.send_upload,
    ArchitectureProfile: queue.send_profile,
}
FREE: dict[str, Any] = {"lease_owner": "", "lease_expires": None}
Job = TypeVar("Job", bound=Leased)


def _waiting(kind: type[Leased]) -> Q:
    return WAITING[kind] & (Q(lease_expires=None) | Q(lease_expires__lt=Now()))


def take(kind: type[Job], key: int | str) -> Job | None:
    """The row, held; None where there is nothing to do or somebody is at it."""
    owner, expires = uuid.uuid4().hex, Now() + TTL
    found = kind._default_manager.filter(_waiting(kind), pk=key)
    if not found.update(lease_owner=owner, lease_expires=expires, tries=F("tries") + 1):
        return None
    return kind._default_manager.get(pk=key)


def gave_up(job: Leased) -> str:
    """Why it is not tried again, or nothing."""
    if job.tries <= MAX_TRIES:
        return ""
    return (
        f"Its worker died {MAX_TRIES} times over it, probably for want of memory. Look at the worker's log."
    )


def renew(job: Leased, **values: Any) -> bool:
    """Keeps the lease and writes along. False: it is somebody else's now, or was deleted."""
    held = type(job)._default_manager.filter(pk=job.pk, lease_owner=job.lease_owner)
    return bool(held.update(lease_expires=Now() + TTL, **values))


def finish(job: Leased, **values: Any) -> bool:
    held = type(job)._default_manager.filter(WAITING[type(job)], pk=job.pk, lease_owner=job.lease_owner)
    return bool(held.update(tries=0, **FREE, **values))


def release(job: Leased) -> bool:
    """The worker cannot go on: another one shall do it, and this was no failed try."""
    released = finish(job)
    if released:
        SEND[type(job)](job)
    return released


def sweep() -> None:
    """Nudges for what waits, once no message is left that could be about it."""
    waiting = [job for kind in WAITING for job in kind._default_manager.filter(_waiting(kind))[:50]]
    if waiting and queue.waiting_messages(queue.CONTROL) == 0:
        for job in waiting:
            SEND[type(job)](job)
