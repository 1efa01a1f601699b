"""A small supervisor: starts processes in order, keeps them alive, and leaves none behind.

Each child has its own process group, so that Ctrl-C reaches the supervisor alone and the order of the stop
is ours. On Linux the kernel ends the children of a killed supervisor (PDEATHSIG); elsewhere, and for a child
that would not listen, the next start ends what the last one left.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

LOG_BYTES = 10_000_000
MAX_BACKOFF = 30.0
PR_SET_PDEATHSIG = 1
Say = Callable[[str], None]


class StackError(RuntimeError):
    """The stack cannot start or go on; the message is for a person."""


@dataclass
class Service:
    """A process to keep alive. Lower `stop_rank`s are stopped first; equal ones together."""

    name: str
    argv: list[str]
    ready: Callable[[], bool]
    env: dict[str, str] = field(default_factory=dict)
    stop_rank: int = 0
    grace: float = 3.0  # seconds between the request to stop and the kill
    ready_within: float = 60.0


def _before_exec(parent: int) -> Callable[[], None]:
    """What the child does first: default signal handling, and death together with the supervisor."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


class Child:
    """One service's process, over all its restarts."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self.failures = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.born = 0.0
        self.restart_at = 0.0

    def spawn(self) -> None:
        """To be called from the main thread: PDEATHSIG fires when the thread that forked ends."""
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                self.service.argv,
                env=os.environ | self.service.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=_before_exec(os.getpid()),
            )
        self.born = time.monotonic()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def note_exit(self) -> None:
        """Clears what the process left of its group and plans the restart: 0.5, 1, 2 … 30 s."""
        assert self.process is not None
        if time.monotonic() - self.born > MAX_BACKOFF:
            self.failures = 0
        self.restart_at = time.monotonic() + min(0.5 * 2**self.failures, MAX_BACKOFF)
        self.failures += 1
        self.signal_group(signal.SIGKILL)
        self.process = None

    def signal_group(self, number: int) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def rotate_log(self) -> None:
        """Copy, then truncate: the child appends to the file it has open."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
            os.truncate(self.log, 0)

    def tail(self, lines: int = 15) -> str:
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - 8000))
            text = file.read().decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in text[-lines:])


class Supervisor:
    """Stages are started one after another; the services of a stage together."""

    def __init__(self, stages: list[list[Service]], folder: Path, logs: Path, say: Say) -> None:
        self.stages = [
            [Child(service, logs / f"{service.name}.log") for service in stage] for stage in stages
        ]
        self.children = [child for stage in self.stages for child in stage]
        self.pid_file = folder / "children.json"
        self.say = say
        self.code = 0
        self.stopping = threading.Event()
        self.hurried = False

    def run(self, on_ready: Callable[[], int | None] | None = None) -> int:
        """Blocks until Ctrl-C, SIGTERM, or a code from `on_ready`; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._asked_to_stop)
        try:
            for stage in self.stages:
                self._start(stage)
            if on_ready is not None and not self.stopping.is_set():
                threading.Thread(target=self._call, args=(on_ready,), daemon=True).start()
            while not self.stopping.wait(0.2):
                self._tend()
        except StackError as error:
            self.say(f"✗ {error}")
            self.code = 1
        finally:
            self._stop()
        return self.code

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.hurried = self.stopping.is_set()  # the second Ctrl-C does not wait
        self.stopping.set()

    def _call(self, on_ready: Callable[[], int | None]) -> None:
        try:
            code = on_ready()
        except Exception:
            traceback.print_exc()
            code = 1
        if code is not None:
            self.code = code
            self.stopping.set()

    def _spawn(self, child: Child) -> None:
        try:
            child.spawn()
        except OSError as error:
            raise StackError(f"{child.service.name} cannot be started: {error}") from error
        self._note_children()

    def _start(self, stage: list[Child]) -> None:
        waiting = list(stage)
        for child in stage:
            self._spawn(child)
        while waiting and not self.stopping.wait(0.05):
            for child in list(waiting):
                if child.alive and child.service.ready():
                    waiting.remove(child)
                    self.say(f"✓ {child.service.name}")
                elif time.monotonic() - child.born > child.service.ready_within:
                    raise StackError(
                        f"{child.service.name} is not ready after "
                        f"{child.service.ready_within:.0f} s. {self._why(child)}"
                    )
                elif child.failures >= 3:
                    raise StackError(
                        f"{child.service.name} ends as soon as it is started. {self._why(child)}"
                    )
            self._tend(quiet=True)

    def _tend(self, quiet: bool = False) -> None:
        for child in self.children:
            if child.alive:
                child.rotate_log()
            elif child.process is not None:
                how = describe_exit(child.process.returncode)
                child.note_exit()
                if not quiet:
                    self.say(f"! {child.service.name} ended ({how}) and is started again. {self._why(child)}")
            elif child.born and time.monotonic() >= child.restart_at:
                self._spawn(child)

    def _why(self, child: Child) -> str:
        return f"The end of {child.log}:\n{child.tail()}"

    def _stop(self) -> None:
        for rank in sorted({child.service.stop_rank for child in self.children}):
            group = [child for child in self.children if child.service.stop_rank == rank]
            for child in group:
                # The leader alone: a pool process that is told too drops its run instead of handing it back.
                if child.alive and child.process is not None:
                    child.process.terminate()
            asked = time.monotonic()
            while not self.hurried and any(
                child.alive and time.monotonic() - asked < child.service.grace for child in group
            ):
                time.sleep(0.02)
            for child in group:
                child.signal_group(signal.SIGKILL)  # what is left of the group, if anything
                if child.process is not None:
                    child.process.wait()
        self.pid_file.unlink(missing_ok=True)

    def _note_children(self) -> None:
        known = []
        for child in self.children:
            if child.process is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    known.append([child.process.pid, psutil.Process(child.process.pid).create_time()])
        draft = self.pid_file.with_suffix(".new")
        draft.write_text(json.dumps(known))
        draft.replace(self.pid_file)


def describe_exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def end_leftovers(pid_file: Path) -> None:
    """Ends the process groups that an earlier supervisor noted and could not end itself."""
    try:
        known = json.loads(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return
    left = []
    for pid, created in known:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if abs(process.create_time() - created) < 1:  # else the number is somebody else's by now
                left.append(process)
    _, stubborn = psutil.wait_procs(left, timeout=3)  # they were asked when their supervisor died
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in stubborn:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        _, stubborn = psutil.wait_procs(stubborn, timeout=3)


@contextlib.contextmanager
def only_instance(folder: Path, about: dict[str, object]) -> Iterator[None]:
    """Holds the folder's lock; a second holder is told who has it. The kernel frees it when we die."""
    with open(folder / "up.lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            first = json.loads(lock.read() or "{}")
            raise StackError(
                f"kdweb already runs here: process {first.get('pid', '?')}, {first.get('url', '?')}. "
                "Stop it with Ctrl-C first, or set KDWEB_HOME and KDWEB_PORT for a second one."
            ) from None
        lock.truncate(0)
        lock.write(json.dumps(about | {"pid": os.getpid()}))
        lock.flush()
        yield
