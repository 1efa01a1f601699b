"""The database at one moment: dumped while others write, and put into an empty one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from django.db import connection, transaction

from . import BackupError

DUMPS = {"sqlite": "database.sqlite3", "postgresql": "database.pgdump"}
Dump = Callable[[Path], None]


@contextmanager
def snapshot() -> Iterator[Dump]:
    """Inside, the ORM sees the database as it was at the beginning, and the function dumps just that.

    Nobody waits for it, neither readers nor writers.
    """
    with _sqlite_snapshot() if connection.vendor == "sqlite" else _postgres_snapshot() as dump:
        yield dump


def tables() -> list[str]:
    return connection.introspection.table_names()


def where() -> str:
    """The database as a person would name it."""
    if connection.vendor == "sqlite":
        return str(connection.settings_dict["NAME"])
    return f"PostgreSQL database “{connection.settings_dict['NAME']}”"


def load(dump: Path) -> None:
    """Fill the empty database. BackupError when PostgreSQL refuses; then it is empty still."""
    if connection.vendor == "sqlite":
        _load_sqlite(dump)
    else:
        name = str(connection.settings_dict["NAME"])
        whole = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges")
        _postgres("pg_restore", *whole, f"--dbname={name}", str(dump))


# --- SQLite -----------------------------------------------------------------------------------------------
@contextmanager
def _sqlite_snapshot() -> Iterator[Dump]:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")  # `atomic` would take the write lock and hold up every worker
        try:
            cursor.execute("SELECT count(*) FROM sqlite_master")  # the first read fixes what is seen
            yield _dump_sqlite
        finally:
            cursor.execute("ROLLBACK")


def _dump_sqlite(target: Path) -> None:
    try:
        with closing(sqlite3.connect(target)) as copy:
            connection.connection.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise BackupError(
            f"The database could not be copied to {target.parent} ({error}): is there room?"
        ) from error
    if found != "ok":
        raise BackupError(
            f"The database {where()} is damaged ({found}): no backup was made. Stop kdweb and try "
            "`sqlite3 … .recover`, or restore the last good backup."
        )


def _load_sqlite(dump: Path) -> None:
    path = Path(connection.settings_dict["NAME"])
    aside = path.with_name(f"{path.name}.restoring")
    connection.close()
    shutil.copyfile(dump, aside)
    aside.chmod(0o600)
    with open(aside, "rb") as file:
        os.fsync(file.fileno())
    for beside in ("-wal", "-shm"):  # of the empty database; read with the new one they would spoil it
        path.with_name(path.name + beside).unlink(missing_ok=True)
    os.replace(aside, path)


# --- PostgreSQL -------------------------------------------------------------------------------------------
@contextmanager
def _postgres_snapshot() -> Iterator[Dump]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # it waits while files are copied
        cursor.execute("SELECT pg_export_snapshot()")
        name = cursor.fetchone()[0]
        options = ("--format=custom", "--no-owner", "--no-privileges", f"--snapshot={name}")
        yield lambda target: _postgres("pg_dump", *options, f"--file={target}")


def _postgres(tool: str, *argv: str) -> None:
    """Run PostgreSQL's own tool on our database. BackupError with its words when it fails."""
    env = os.environ | _environment()
    done = subprocess.run([_find(tool), *argv], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-500:] or f"exit code {done.returncode}"
        raise BackupError(f"{tool} failed: {said}")


def _find(tool: str) -> str:
    """On the PATH, else where Debian keeps it."""
    debian = Path("/usr/lib/postgresql").glob(f"*/bin/{tool}")
    newest = max(debian, key=lambda path: (len(path.parts[4]), path.parts[4]), default=None)
    found = shutil.which(tool) or (str(newest) if newest else None)
    if found is None:
        raise BackupError(
            f"{tool} was not found: install PostgreSQL's client tools, of the server's version or newer "
            "(Debian: postgresql-client)."
        )
    return found


def _environment() -> dict[str, str]:
    """Our connection's parameters as libpq's variables: a password among the arguments is seen by all."""
    connection.ensure_connection()
    info = connection.connection.info
    given = info.get_parameters() | {"password": info.password, "dbname": info.dbname}
    known = {
        option.keyword.decode(): option.envvar.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.envvar
    }
    return {known[name]: value for name, value in given.items() if value and name in known}
