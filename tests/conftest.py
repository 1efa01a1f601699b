"""What several test files share: private servers, each started once in a test session."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdweb import embedded_redis

# Test processes share the cores: one thread each, and none that spins. Before any test imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own, on a unix socket."""
    with embedded_redis.running(tmp_path_factory.mktemp("redis")) as url:
        yield url


def postgres_tool(name: str) -> str:
    """Debian keeps the server's own tools off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(debian[-1]) if debian else None)
    if found is None:
        pytest.fail(
            f"{name} was not found: install PostgreSQL (Debian: postgresql), or run `make test-fast`."
        )
    return found


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of our own, on a unix socket. The server refuses root, so there it runs as nobody."""
    user = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="kdweb-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        run = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL}
        data = str(folder / "data")
        subprocess.run(
            [postgres_tool("initdb"), "-D", data, "-U", "kdweb", "-A", "trust", "-E", "UTF8"],
            check=True,
            **run,
        )
        settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", str(folder)]
        server = subprocess.Popen(
            [postgres_tool("postgres"), "-D", data, *settings], stderr=subprocess.DEVNULL, **run
        )
        try:
            deadline = time.monotonic() + 30
            while not (folder / ".s.PGSQL.5432").exists() or not accepts(folder):
                assert server.poll() is None, "PostgreSQL did not start"
                assert time.monotonic() < deadline, "PostgreSQL is not ready after 30 s"
                time.sleep(0.1)
            yield f"postgres://kdweb@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # its "fast" shutdown: waits for nobody
            server.wait(timeout=20)


def accepts(folder: Path) -> bool:
    import psycopg

    try:
        psycopg.connect(host=str(folder), user="kdweb", dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True
