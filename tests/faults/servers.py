"""Redis, databases and a network between them and a worker, each to be broken at will."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis

from kdweb import embedded_redis
from tests.conftest import accepts, postgres_tool

from .processes import spawn, until


def short_folder() -> Path:
    """A unix socket's path must be short, and pytest's folders are deep."""
    return Path(tempfile.mkdtemp(prefix="kdweb-f-"))


class Broker:
    """A redis-server of its own; what it holds survives kill and restart, as in production."""

    def __init__(self) -> None:
        self.folder = short_folder()
        self.socket = self.folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        server = embedded_redis.find_server()
        assert server, embedded_redis.MISSING
        argv = embedded_redis.command(server, self.socket, self.folder)
        self.process = spawn(argv, self.folder / "redis.log")
        until(lambda: not embedded_redis.trouble(self.url), 20, f"Redis answers at {self.socket}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """As asked: SIGTERM saves first, SIGKILL is `kill`. Does nothing where it is down."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=20)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def restart(self, number: int = signal.SIGTERM) -> None:
        self.stop(number)
        self.start()

    def freeze(self) -> None:
        """It takes connections and answers nobody, until `thaw`."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True)

    def flush(self) -> None:
        self.client().flushall()

    def limit(self, maxmemory: int, policy: str = "noeviction") -> None:
        """Bytes it may use (0: all), and what it does when they are used up."""
        client = self.client()
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", maxmemory)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sqlite:
    """The database of a one-machine site: a file."""

    vendor = "sqlite"

    def __init__(self, template: Path) -> None:
        """`template`: a migrated file, whose content this one begins with."""
        self.folder = short_folder()
        self.file = self.folder / "kdweb.sqlite3"
        shutil.copy2(template, self.file)
        self.url = f"sqlite:///{self.file}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else can write while the block lasts."""
        connection = sqlite3.connect(self.file, timeout=60, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    def writable(self) -> bool:
        """Whether nobody holds its one lock at this moment."""
        connection = sqlite3.connect(self.file, timeout=0, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()
        return True

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres:
    """A PostgreSQL server of its own, on a unix socket. It refuses root, so there it runs as nobody."""

    vendor = "postgresql"

    def __init__(self, template: Path | None = None, max_connections: int = 60) -> None:
        """`template`: the data folder of a server that was stopped; a copy starts faster than initdb."""
        self.folder = short_folder()
        self.data = self.folder / "data"
        self.max_connections = max_connections
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"postgres://kdweb@/postgres?host={self.folder}"
        self.user = "nobody" if os.getuid() == 0 else None
        self.folder.chmod(0o755)
        if template:
            shutil.copytree(template, self.data)
        if self.user:
            shutil.chown(self.folder, self.user)
            for path in self.data.rglob("*") if template else ():
                shutil.chown(path, self.user)
            if template:
                shutil.chown(self.data, self.user)
        if not template:
            self._initdb()

    def _initdb(self) -> None:
        argv = [postgres_tool("initdb"), "-D", str(self.data), "-U", "kdweb", "-A", "trust", "-E", "UTF8"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*argv, "--no-sync"], check=True, user=self.user, cwd=self.folder, **quiet)

    def start(self) -> None:
        settings = [
            "listen_addresses=",
            "shared_buffers=16MB",
            f"max_connections={self.max_connections}",
            f"unix_socket_directories={self.folder}",
        ]
        argv = [postgres_tool("postgres"), "-D", str(self.data), *(p for s in settings for p in ("-c", s))]
        self.process = spawn(argv, self.folder / "postgres.log", user=self.user)
        until(lambda: accepts(self.folder), 60, "PostgreSQL answers")

    def stop(self, how: str = "fast") -> None:
        """fast: ends all connections in order; immediate: as a crash, it recovers at the next start."""
        if self.process is not None:
            self.process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how])
            self.process.wait(timeout=60)
            self.process = None

    def restart(self, how: str = "fast") -> None:
        self.stop(how)
        self.start()

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """One statement as the server's administrator; its rows, if it has any."""
        with psycopg.connect(
            host=str(self.folder), user="kdweb", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute("SET default_transaction_read_only = off")
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def read_only(self, on: bool = True) -> None:
        """From its next transaction on nobody may write, as on a standby or a server that protects itself."""
        self.ask(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
        self.ask("SELECT pg_reload_conf()")

    def clients(self) -> int:
        """How many connections are open, our own question aside."""
        rows = self.ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        return int(str(rows[0][0])) - 1

    def cut(self) -> None:
        """Ends every open connection at once."""
        self.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def close(self) -> None:
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


Database = Sqlite | Postgres
