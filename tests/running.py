"""`manage.py up` as a subprocess, for the tests that need the whole of it."""

from __future__ import annotations

import http.client
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path, port: int, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KDWEB_", "DJANGO_"))}
    return clean | {"KDWEB_HOME": str(home), "KDWEB_PORT": str(port), "OMP_NUM_THREADS": "1"} | more


def manage(
    home: Path, port: int, *argv: str, patience: float = 120, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *argv],
        cwd=ROOT,
        env=environment(home, port, **env),
        capture_output=True,
        text=True,
        timeout=patience,
    )


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it just ended
        return ""


class Stack:
    """A running `manage.py up`."""

    def __init__(self, home: Path, **env: str) -> None:
        self.home = home
        self.port = free_port()
        self.seen: list[str] = []
        self.lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=ROOT,
            env=environment(home, self.port, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)

    def wait_for(self, words: str, seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while not any(words in line for line in self.seen):
            assert self.process.poll() is None, "ended:\n" + "".join(self.seen)
            try:
                self.seen.append(self.lines.get(timeout=max(0.01, deadline - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"“{words}” was not said in {seconds} s:\n" + "".join(self.seen))

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, words: str) -> psutil.Process:
        return next(p for p in self.family() if words in command_line(p))

    def end(self) -> None:
        """As Ctrl-C does; harder if that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def get(self, path: str) -> int:
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            asked.request("GET", path)
            return asked.getresponse().status
        finally:
            asked.close()


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def gone(family: list[psutil.Process], seconds: float) -> list[str]:
    """Those who are still there after so many seconds."""
    return [command_line(p) for p in psutil.wait_procs(family, timeout=seconds)[1]]
