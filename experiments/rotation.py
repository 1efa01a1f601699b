"""Which workers take runs: who may drain one, what its page says of it, and when its row may go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db.models.functions import Now
from django.utils.translation import gettext_lazy

from .models import Membership, Role, Worker

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

FORGOTTEN = timedelta(hours=1)  # silent for so long, its row may be removed
NEEDED = gettext_lazy("This needs the role maintainer in some project, or a site administrator.")


def may_drain(user: AbstractBaseUser | AnonymousUser) -> bool:
    """Workers serve all projects: maintainers of any of them, and site administrators."""
    if getattr(user, "is_superuser", False):
        return True
    return Membership.objects.filter(user=user.pk or 0, role=Role.MAINTAINER).exists()


def drain(worker: Worker, wanted: bool) -> bool:
    """Asks it to take no further run, or to take them again. False: it was asked before."""
    changed = Worker.objects.filter(pk=worker.pk).exclude(drain=wanted).update(drain=wanted)
    worker.drain = wanted
    return bool(changed)


def remove(name: str) -> bool:
    """Forgets a worker that has been silent for long. False: it has been heard of since, or is gone."""
    return bool(Worker.objects.filter(pk=name, heartbeat__lt=Now() - FORGOTTEN).delete()[0])


def state(worker: Worker) -> str:
    """As its badge shows it, the most telling first."""
    if not worker.alive:  # type: ignore[attr-defined]  # annotated by the manager
        return "offline"
    if worker.trouble:
        return "in trouble"
    if worker.drain:
        return "draining" if worker.run_id else "drained"
    return "online"


def differing(workers: Iterable[Worker]) -> set[str]:
    """What is installed in several versions among the living: runs that move between them are not exact."""
    seen: dict[str, set[str]] = defaultdict(set)
    for worker in workers:
        for name, version in worker.versions.items():
            if worker.alive:  # type: ignore[attr-defined]
                seen[name].add(str(version))
    return {name for name, versions in seen.items() if len(versions) > 1}
