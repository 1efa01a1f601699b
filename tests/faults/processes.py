"""Processes that cannot be leaked: they die with the test process, and the sweep finds what is left."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
T = TypeVar("T")
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_together(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def spawn(
    argv: list[str], log: Path, env: Mapping[str, str] | None = None, **more: Any
) -> subprocess.Popen[bytes]:
    """A process in a group of its own that is killed when this one ends. Call it from the main thread:
    the kernel means the thread."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=_die_together(os.getpid()),
            **more,
        )


def python(*argv: str, env: Mapping[str, str], patience: float = 120.0) -> str:
    """A short-lived child, such as `manage.py migrate`: what it printed. Fails with its words."""
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=dict(env), capture_output=True, text=True, timeout=patience
    )
    assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def family(pid: int) -> list[psutil.Process]:
    """The process and all below it; nothing where it is gone."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def words_of(process: psutil.Process) -> str:
    """Its command line; nothing where it just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_all(processes: list[psutil.Process], seconds: float = 20.0) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    left = psutil.wait_procs(processes, timeout=seconds)[1]
    assert not left, f"these would not die: {[words_of(one) for one in left]}"


def of_home(home: Path) -> list[psutil.Process]:
    """Every process whose environment names this data folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("KDWEB_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(condition: Callable[[], T], seconds: float = 60.0, what: str = "") -> T:
    """The first true answer, asked ten times a second; AssertionError where none comes in time."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what or condition}"
        time.sleep(0.1)
    return found


@contextmanager
def slowly(process: psutil.Process, share: float = 0.1) -> Iterator[None]:
    """Within, the process gets at most this share of a core: a short run lasts long, whatever the machine."""
    over = threading.Event()

    def spent() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    def brake() -> None:
        began, before = time.monotonic(), spent()
        while not over.wait(0.02):
            ahead = spent() - before > share * (time.monotonic() - began)
            (process.suspend if ahead else process.resume)()
        process.resume()

    def safely() -> None:
        with suppress(psutil.Error):
            brake()

    thread = threading.Thread(target=safely, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
