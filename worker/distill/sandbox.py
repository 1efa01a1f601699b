"""Less power while a file from outside is read: bounded memory and CPU, no network, no other program.

A second fence. The first are the readers' own checks; the third is the process, which the supervisor starts
with an empty environment and which ends with the command.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_FORBIDDEN = """
    socket.connect socket.bind socket.getaddrinfo socket.sendto subprocess.Popen os.system os.exec os.fork
    os.forkpty os.posix_spawn os.startfile os.symlink os.link
"""
FORBIDDEN = frozenset(_FORBIDDEN.split())


# Neither is an Exception: a decoder's catch-all must not take them for one more broken file.


class Forbidden(BaseException):
    """Something that reading a file never needs was tried."""


class TooMuchTime(BaseException):
    """The limit on CPU time is used up."""


_fenced = threading.local()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in FORBIDDEN and getattr(_fenced, "on", False):
        raise Forbidden(f"{event} was tried while a file from outside was read")


@contextlib.contextmanager
def fenced(*, memory: int, cpu_seconds: int) -> Iterator[None]:
    """At most `memory` bytes more address space and `cpu_seconds` more CPU time than now, in this thread.

    Only soft limits are set, and taken back at the end: evaluation afterwards needs the machine.
    """
    _install()
    _fenced.on = True
    try:
        with _memory(memory), _cpu(cpu_seconds):
            yield
    finally:
        _fenced.on = False


@functools.cache
def _install() -> None:
    sys.addaudithook(_hook)  # it cannot be removed, so it is added once


@contextlib.contextmanager
def _memory(more: int) -> Iterator[None]:
    try:
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # neither Windows nor macOS tells it this way
        yield
        return
    with _soft(resource.RLIMIT_AS, used + more):
        yield


@contextlib.contextmanager
def _cpu(more: int) -> Iterator[None]:
    try:
        import resource
    except ImportError:
        yield
        return
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread only
        yield
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    previous = signal.signal(signal.SIGXCPU, _on_cpu)
    try:
        with _soft(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + more):
            yield
    finally:
        signal.signal(signal.SIGXCPU, previous)


def _on_cpu(number: int, frame: FrameType | None) -> None:
    raise TooMuchTime("reading it takes too long")


@contextlib.contextmanager
def _soft(kind: int, value: int) -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(kind)
    for limit in (soft, hard):
        value = min(value, limit) if limit != resource.RLIM_INFINITY else value
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
