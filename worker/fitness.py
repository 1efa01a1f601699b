"""Whether a worker may take a run: nobody drains it, its device is there, its code fits the database."""

from __future__ import annotations

import logging
from functools import cache

from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from experiments import publish
from experiments.models import Worker

log = logging.getLogger(__name__)

APP = "experiments"


def may_take(worker: str) -> bool:
    """Asked before every claim and at every heartbeat. What is in the way stands on the Workers page."""
    row = Worker.objects.filter(name=worker).first()
    if row is not None and (row.drain or row.trouble.startswith(LOST)):
        return False
    trouble = misfit()
    if row is not None and row.trouble != trouble:
        publish.heartbeat(worker, trouble=trouble)
        log.warning(trouble or "Code and database fit again.")
    return not trouble


LOST = "Out of rotation: "


def leave_rotation(worker: str, reason: str) -> None:
    """Its device cannot be trusted any more; until the worker is restarted it takes nothing."""
    publish.heartbeat(worker, trouble=f"{LOST}{reason}")


def misfit() -> str:
    """Why this code must not write to the database as it is; nothing where they fit."""
    applied = {name for app, name in MigrationRecorder(connection).applied_migrations() if app == APP}
    if newer := sorted(applied - _known()):
        return (
            f"This worker's code is older than the database ({newer[-1]} was applied): update and restart it."
        )
    if older := sorted(_known() - applied):
        return (
            f"The database is older than this worker's code ({older[0]} is missing): run manage.py prepare."
        )
    return ""


@cache
def _known() -> set[str]:
    return {
        name for app, name in MigrationLoader(None, ignore_no_migrations=True).disk_migrations if app == APP
    }
