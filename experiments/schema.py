"""Do this code and the database fit together? Asked by workers, the health page, the doctor and backups."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

OURS = "experiments"


class Misfit(NamedTuple):
    """Names of migrations. Of other applications' newer ones we cannot tell: they may just be gone."""

    missing: list[str]  # this code knows them, the database has not had them
    newer: list[str]  # the database has had them, this code does not know them


def misfit() -> Misfit:
    applied = set(MigrationRecorder(connection).applied_migrations())
    newer = [one for one in applied - known() if one[0] == OURS]
    return Misfit(*(sorted(name for _, name in found) for found in (known() - applied, newer)))


@cache
def known() -> frozenset[tuple[str, str]]:
    """(application, name) of every migration in this code."""
    return frozenset(MigrationLoader(None, ignore_no_migrations=True).disk_migrations)
