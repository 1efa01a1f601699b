"""Whether a worker may take a run: nobody drains it, its device is there, its code fits the database."""

from __future__ import annotations

import logging

from experiments import publish, schema
from experiments.models import Worker

log = logging.getLogger(__name__)

LOST = "Out of rotation: "


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


def leave_rotation(worker: str, reason: str) -> None:
    """Its device cannot be trusted any more; until the worker is restarted it takes nothing."""
    publish.heartbeat(worker, trouble=f"{LOST}{reason}")


def misfit() -> str:
    """Why this code must not write to the database as it is; nothing where they fit."""
    missing, newer = schema.misfit()
    if newer:
        return f"This worker's code is older than the database (it has {newer[-1]}): update and restart it."
    if missing:
        return f"The database is older than this worker's code (no {missing[0]}): run manage.py prepare."
    return ""
