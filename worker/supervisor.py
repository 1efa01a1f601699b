"""Runs the engine as a child process and reads its events. Knows neither Django nor torch.

The child has a session and an environment of its own, ends when its parent ends, and whatever happens to it
becomes an event or a sentence: nothing it does can take the worker down.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from worker.distill import events
from worker.distill.events import Event, Failed, Log, Result, Stopped

ROOT = Path(__file__).resolve().parent.parent
SERVE = [sys.executable, "-m", "worker.distill", "serve"]
CATALOGUE = [sys.executable, "-m", "worker.distill", "catalogue"]

# The rest of the environment (passwords, keys, addresses) is none of the engine's business.
PASSED_ON = {
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"),
    *(
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "MKL_NUM_THREADS",
        "TORCH_HOME",
        "HF_HOME",
        "CUBLAS_WORKSPACE_CONFIG",
    ),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
}
PASSED_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_", "PYTORCH_")
# glibc keeps its memory between steps instead of giving it back and asking anew: a third faster on CPU.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
PIPE = 1 << 20  # roomy: the engine must not wait while its events are written to the database
MAX_EVENT = 1 << 28  # bytes without a line's end: that is no event any more
PR_SET_PDEATHSIG = 1


def environment() -> dict[str, str]:
    passed = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith(PASSED_PREFIXES)}
    return ALLOCATOR | {"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"} | passed


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Where the kernel can do it: this process is killed when the one that started it ends."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _prepare(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec. A pool process ignores signals; the engine must not."""

    def prepare() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        die_with_parent()
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


class Engine:
    """One child: it gets ready by itself, does one command, and ends."""

    def __init__(self, argv: list[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            argv or SERVE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment() | dict(env or {}),
            start_new_session=True,
            pipesize=PIPE,
            preexec_fn=_prepare(os.getpid()),
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.selector = selectors.DefaultSelector()
        self.buffers = {"out": bytearray(), "err": bytearray()}
        for name, pipe in (("out", self.process.stdout), ("err", self.process.stderr)):
            os.set_blocking(pipe.fileno(), False)
            self.selector.register(pipe, selectors.EVENT_READ, name)
        self.last_words: deque[str] = deque(maxlen=20)
        self.crash = ""  # where native code crashed, as the child itself said it
        self._crashed_here = False
        self.heard = time.monotonic()  # when it last said anything, once it has work
        self.ending: Event | None = None  # Result, Failed or Stopped
        self.kill_at: float | None = None
        self.killed = ""  # why we killed it

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def start(self, command: str, spec: Mapping[str, Any]) -> bool:
        """Hand over the one request. False: the child is gone."""
        assert self.process.stdin
        line = json.dumps({"command": command, "spec": spec}) + "\n"
        self.heard = time.monotonic()
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.close()
        except OSError:
            return False
        return True

    def limit(self, *, cpu_seconds: int, file_bytes: int) -> None:
        """For a child that opens a stranger's file: bounds it cannot lift again."""
        if hasattr(resource, "prlimit") and self.alive:
            resource.prlimit(self.process.pid, resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            resource.prlimit(self.process.pid, resource.RLIMIT_CORE, (0, 0))

    # --- Reading ----------------------------------------------------------------------------------------
    def read(self, timeout: float = 0.1) -> list[Event]:
        """What it said within `timeout`; at once when there is something. Kills one that will not stop."""
        self._enforce()
        found: list[Event] = []
        for key, _ in self.selector.select(timeout) if self.selector.get_map() else ():
            found += self._drain(key)
        if not self.selector.get_map() and self.alive:
            time.sleep(min(timeout, 0.05))  # both pipes closed, and it lives on
        return found

    def _drain(self, key: selectors.SelectorKey) -> list[Event]:
        try:
            block = os.read(key.fd, PIPE)
        except BlockingIOError:
            return []
        self.heard = time.monotonic()  # a progress bar's bytes count, though they make no line
        buffer = self.buffers[key.data]
        if not block:
            self.selector.unregister(key.fileobj)
            block = b"\n" if buffer else b""
        buffer += block
        if b"\n" not in block and len(buffer) <= MAX_EVENT:
            return []
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        if len(rest) > MAX_EVENT:
            buffer.clear()
            self.kill("it wrote a line without end")
        understood = (self._event(line) if key.data == "out" else self._words(line) for line in lines)
        return [event for event in understood if event is not None]

    def _event(self, line: bytes) -> Event | None:
        if not line.strip():
            return None
        try:
            event = events.parse(line)
        except ValidationError:
            return self._words(line)
        if isinstance(event, Result | Failed | Stopped):
            self.ending = event
        return event

    def _words(self, line: bytes) -> Log | None:
        text = line.decode("utf-8", "replace").rstrip()
        if not text:
            return None
        self.last_words.append(text)
        self._look_for_crash(text)
        return Log(text=text, wall=time.time())

    def _look_for_crash(self, text: str) -> None:
        """faulthandler names the signal, then every thread; the crash is the current one's first line."""
        if text.startswith("Fatal Python error"):
            self.crash = text
        elif text.startswith("Current thread"):
            self._crashed_here = bool(self.crash)
        elif self._crashed_here and text.startswith("  File "):
            self.crash, self._crashed_here = f"{self.crash} at{text[1:]}", False

    @property
    def done(self) -> bool:
        """Ended, and read to the end. A grandchild that holds the pipes open is not waited for."""
        if self.alive:
            return False
        return not self.selector.get_map() or not self.selector.select(0)

    def dump(self, grace: float = 2.0) -> list[Event]:
        """Ask a child that hangs what it and its helpers are doing, before it is killed for it.

        The stacks of all their threads as log lines, and what else is said within `grace` seconds (each);
        nothing from a child that is stopped. Neither `heard` nor the last words change.
        """
        if not self.alive:
            return []
        heard, words = self.heard, list(self.last_words)
        found: list[Event] = []
        with suppress(psutil.Error):
            leader = psutil.Process(self.process.pid)
            found = [
                event
                for process in (leader, *leader.children(recursive=True))
                for event in self._asked(process, time.monotonic() + grace)
            ]
        self.heard = heard
        self.last_words = deque(words, maxlen=self.last_words.maxlen)
        return found

    def _asked(self, process: psutil.Process, until: float) -> list[Event]:
        """One at a time: two that wrote at once would write into each other's lines."""
        with suppress(psutil.Error):
            process.send_signal(signal.SIGUSR1)
        found: list[Event] = []
        while time.monotonic() < until and not self.done:
            found += self.read(0.1)
            if found and time.monotonic() - self.heard > 0.5:
                break
        return found

    # --- Ending -----------------------------------------------------------------------------------------
    def stop(self, grace: float = 60.0) -> None:
        """Ask it to stop at the next step, with a checkpoint; after `grace` seconds it is killed."""
        if self.kill_at is None and self.alive:
            self.process.send_signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + grace

    def _enforce(self) -> None:
        if self.kill_at is not None and time.monotonic() > self.kill_at and self.alive:
            self.kill("it did not stop in time")

    def kill(self, why: str = "it was not needed any more") -> None:
        """The child and all it started."""
        self.killed = self.killed or why
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()

    def close(self) -> None:
        """Leave nothing: no process, no pipe."""
        self.kill()
        self.selector.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                if pipe:
                    pipe.close()
            except OSError:
                pass

    def reason(self) -> str:
        """Why it ended without saying so, in words."""
        code = self.process.poll()
        words = f" Its last words: {' / '.join(list(self.last_words)[-3:])}" if self.last_words else ""
        words = f" {self.crash}." if self.crash else words
        if self.killed:
            return f"The training process was ended: {self.killed}.{words}"
        return f"{in_words(code)}{words}"[:4000]


def in_words(code: int | None) -> str:
    """An exit code as a sentence a person can act on."""
    match code:
        case -9 | 137:
            return (
                "The training process was killed (signal 9): probably the machine ran out of memory. Use a "
                "smaller batch, or a machine with more memory."
            )
        case -7:
            return (
                "The training process met a bus error (SIGBUS): shared memory (/dev/shm) is full, or a file "
                "that it was reading was cut short. Free space there, and see that the data are whole."
            )
        case -11 | -4 | -8:
            name = signal.Signals(-code).name
            return f"The training process crashed inside native code ({name}). Look at the log."
        case -6:
            return "The training process aborted itself (SIGABRT): a library met a state it cannot handle."
        case -24:
            return "The training process used more processor time than it is allowed."
        case 0:
            return "The training process ended without a result."
        case int() if code < 0:
            return f"The training process was ended by signal {-code}."
    return f"The training process ended with code {code} and without a word about why."


class Spare:
    """One child that has torch imported already, so that work begins at once."""

    def __init__(self, make: Callable[[], Engine] = Engine) -> None:
        self.make = make
        self.waiting: Engine | None = None

    def refill(self) -> None:
        if self.waiting is not None and not self.waiting.alive:
            self.waiting.close()
            self.waiting = None
        if self.waiting is None:
            self.waiting = self.make()

    def take(self, command: str, spec: Mapping[str, Any]) -> Engine:
        """A child that does the command: the spare where it lives, else a new one."""
        engine, self.waiting = self.waiting, None
        if engine is not None:
            if engine.alive and engine.start(command, spec):
                return engine
            engine.close()
        engine = self.make()
        engine.start(command, spec)
        return engine

    def close(self) -> None:
        if self.waiting is not None:
            self.waiting.close()
            self.waiting = None
