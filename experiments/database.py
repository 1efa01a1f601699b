"""A database that is away, read-only, locked or full: what it looks like, and how to get over it. And what it
has to be told of itself."""

from __future__ import annotations

from functools import lru_cache

from django.db import InterfaceError, InternalError, OperationalError, connection

# Restarting, unreachable, locked, full: OperationalError. A connection that was cut: InterfaceError.
# PostgreSQL that has become read-only: InternalError.
AWAY = (OperationalError, InterfaceError, InternalError)


def let_go() -> None:
    """A connection that broke is never mended by itself: the next query opens a new one."""
    connection.close()


@lru_cache(maxsize=1)
def describe(hour: int) -> None:
    """Tells SQLite what its tables are like, once in that hour; PostgreSQL finds out by itself.

    Untold, it takes a unique index and reads a row for each of its entries where a wider index holds all that
    is asked for. It looks at a sample: some milliseconds, however large the tables are.
    """
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA analysis_limit=400")
            cursor.execute("ANALYZE")
