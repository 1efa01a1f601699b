"""The engine's command line.

    python -m worker.distill train spec.json        distil (or train) a network
    python -m worker.distill prepare spec.json      turn a source of data into a prepared dataset
    python -m worker.distill import-checkpoint …    read an uploaded checkpoint, write it as safetensors
    python -m worker.distill profile spec.json      describe an architecture
    python -m worker.distill catalogue [source]     what there is here: methods, networks, data, devices;
                                                    the devices alone where the code is that known `source`
    python -m worker.distill serve                  get ready, then do ONE request read from stdin:
                                                    {"command": "train", "spec": {...}}

"-" in place of a file reads the spec from stdin. Events are JSON lines on stdout (see events.py), everything
else goes to stderr. Exit code: 0 done, 3 failed (a Failed event says why), 4 stopped. SIGTERM or SIGINT stops
at the next step, with a checkpoint. SIGUSR1 writes what every thread is doing to stderr, and so does a crash.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import BaseModel

from worker.distill.alive import Signs, while_bytes_move
from worker.distill.errors import StopRequested
from worker.distill.events import Phase, Reporter, Result, Stopped
from worker.distill.failures import failure
from worker.distill.spec import COMMANDS, SpecError

# Read by the thread library when torch loads it. Threads that spin while they wait for each other waste cores
# that others want too: on a shared machine training is up to ten times faster when they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DONE, FAILED, STOPPED = 0, 3, 4
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2


class Stop:
    """Set by SIGTERM and SIGINT, and when nobody reads the events any more.

    Calling it asks, and shows that the work goes on.
    """

    def __init__(self) -> None:
        self.requested = False
        self.idle = False  # waiting for a request: there is nothing to finish first
        self.sign: Callable[[], None] = lambda: None

    def __call__(self) -> bool:
        self.sign()
        return self.requested

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self.idle:
            raise StopRequested

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.on_signal)  # the parent may have left them ignored
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


class Pipe:
    """Writes events to the original stdout; whatever else prints is sent to stderr."""

    def __init__(self, stop: Stop) -> None:
        sys.stdout.flush()
        self.file = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)  # C libraries and child processes too
        sys.stdout = sys.stderr
        self.stop, self.broken = stop, False
        self.lock = threading.Lock()  # signs of life come from a thread of their own

    def __call__(self, event: BaseModel) -> None:
        if self.broken:
            return
        try:
            with self.lock:
                self.file.write(event.model_dump_json() + "\n")
                self.file.flush()
        except BrokenPipeError:
            self.broken = self.stop.requested = True  # nobody listens: checkpoint and leave


def leave_traces() -> None:
    """On stderr: the stacks of all threads, when native code crashes and when SIGUSR1 asks for them."""
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def die_with_parent() -> None:
    """On Linux: SIGTERM when the parent ends, so that an orphan checkpoints and leaves.

    A parent that has asked for another signal keeps it: a worker wants its orphan killed, since the run is
    claimed anew and two trainings must not write to one folder.
    """
    if sys.platform == "linux":
        libc, chosen = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
        libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(chosen), 0, 0, 0)
        if not chosen.value:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def perform(command: str, request: Callable[[], Any], report: Reporter, stop: Stop) -> int:
    """Do one command, say how it ended, return the exit code."""
    try:
        with while_bytes_move(stop.sign):
            data = execute(command, request(), report, stop)
        report(Result(data=data))
        return DONE
    except StopRequested as stopped:
        report(Stopped(step=stopped.step))
        return STOPPED
    except Exception as error:
        report(failure(error))
        return FAILED


def execute(command: str, request: Any, report: Reporter, stop: Stop) -> dict[str, Any]:
    """Import what the command needs, and no more, and call it."""
    if command == "catalogue":
        from worker.distill.catalogue import catalogue

        return catalogue(request or "")
    if command not in COMMANDS:
        raise SpecError(
            "command", command, "there is no such command.", f"Use one of: {', '.join(COMMANDS)}."
        )
    spec: Any = COMMANDS[command].model_validate(request)
    report(Phase(name="starting"))
    match command:
        case "train":
            from worker.distill.trainer import train

            return train(spec, report, stop)
        case "prepare":
            from worker.distill.data import prepare

            return prepare(spec, report, stop)
        case "import-checkpoint":
            from worker.distill.import_checkpoint import import_checkpoint

            return import_checkpoint(spec, report, stop)
        case _:
            from worker.distill.profile import profile

            return profile(spec)


def read_spec(path: str) -> Any:
    """The JSON of a spec file; "-" is stdin."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise SpecError(
            "spec", path, f"the file cannot be read ({error.strerror}).", "Give its path."
        ) from error
    except ValueError as error:
        raise SpecError("spec", path, f"the file is not JSON ({error}).", "Correct it.") from error


def serve(report: Reporter, stop: Stop) -> int:
    """The warm spare: everything slow is imported before the request comes."""
    import torch._dynamo  # noqa: F401  (the first optimiser imports it: 1.2 s)

    from worker.distill import trainer  # noqa: F401

    try:
        stop.idle = True
        if stop.requested:
            raise StopRequested
        report(Phase(name="ready"))
        line = sys.stdin.readline()
        stop.idle = False
    except StopRequested:
        report(Stopped())
        return STOPPED
    if not line.strip():  # the supervisor closed the pipe: it needs no spare any more
        return DONE
    try:
        asked = json.loads(line)
        command, request = asked["command"], asked["spec"]
    except (ValueError, KeyError, TypeError):
        fix = 'Send one line: {"command": …, "spec": {…}}.'
        report(failure(SpecError("request", line.strip(), "this is no request.", fix)))
        return FAILED
    return perform(command, lambda: request, report, stop)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m worker.distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("command", choices=[*COMMANDS, "catalogue", "serve"], metavar="command")
    found.add_argument("spec", nargs="?", help="a JSON file; - for stdin")
    return found


def main() -> int:
    arguments = parser().parse_args()
    wants = arguments.command in COMMANDS
    if arguments.command != "catalogue" and wants != (arguments.spec is not None):
        parser().error(f"{arguments.command} takes {'a' if wants else 'no'} spec file")
    leave_traces()
    stop = Stop()
    stop.listen()
    die_with_parent()
    report = Pipe(stop)
    stop.sign = Signs(report)
    if arguments.command == "serve":
        return serve(report, stop)
    if arguments.command == "catalogue":
        return perform("catalogue", lambda: arguments.spec, report, stop)
    return perform(arguments.command, lambda: read_spec(arguments.spec), report, stop)


if __name__ == "__main__":
    sys.exit(main())
