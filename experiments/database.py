"""A database that is away, read-only, locked or full: what it looks like, and how to get over it."""

from __future__ import annotations

from django.db import InterfaceError, InternalError, OperationalError, connection

# Restarting, unreachable, locked, full: OperationalError. A connection that was cut: InterfaceError.
# PostgreSQL that has become read-only: InternalError.
AWAY = (OperationalError, InterfaceError, InternalError)


def let_go() -> None:
    """A connection that broke is never mended by itself: the next query opens a new one."""
    connection.close()
