"""Files that are whole or absent: written aside, forced to disk, hashed, renamed.

A resume checkpoint carries its hash in its name, so that file and hash cannot part:
`resume-<step>.<sha256>.pt`. The last two are kept.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from worker.distill.errors import naming
from worker.distill.events import Checkpoint, Log, Reporter
from worker.distill.spec import SpecError

KEPT = 2
STUDENT = "student.safetensors"
_RESUME = re.compile(r"resume-(\d+)\.([0-9a-f]{64})\.pt")


def save_resume(folder: Path, state: dict[str, Any], step: int) -> Checkpoint:
    """Write everything a run needs to go on exactly where it was; drop all but the last two.

    Raises OSError naming the path; then the earlier ones are as they were.
    """
    stem = f"resume-{step:010d}"
    with _aside(folder, stem) as file:
        try:
            torch.save(state, cast("IO[bytes]", file))
        except RuntimeError:
            if file.failed is None:
                raise
            raise file.failed from None  # torch says only that writing failed, not why
        path = file.publish(folder / f"{stem}.{file.digest.hexdigest()}.pt")
    # Of one step there is one file: a stop can come at the step whose checkpoint is already there.
    same_step = [old for old in _resumable(folder) if _step(old) == step and old != path]
    for old in same_step + [p for p in _resumable(folder) if p not in same_step][KEPT:]:
        old.unlink(missing_ok=True)
    return file.event("resume", path, step)


def load_resume(folder: Path, report: Reporter) -> dict[str, Any] | None:
    """The newest checkpoint whose hash is right; None when there is none at all.

    Raises SpecError when there are some and none is whole: starting anew is for a person to decide.
    """
    for leftover in folder.glob(".writing-*"):
        leftover.unlink(missing_ok=True)
    found = _resumable(folder)
    for number, path in enumerate(found, start=1):
        try:
            return _read_resume(path)
        except (OSError, _Damaged) as error:
            then = "trying the one before" if number < len(found) else "there is none before"
            text = f"The checkpoint {path.name} is damaged ({_reason(error)}); {then}."
            report(Log(level="warning", text=text))
    if found:
        problem = f"none of the {len(found)} checkpoints in it is whole." if len(found) > 1 else ""
        problem = problem or "its only checkpoint is not whole."
        fix = "Put a whole one back, or start the run again from the beginning."
        raise SpecError("output", str(folder), problem, fix)
    return None


class _Damaged(Exception):
    """Not what was written."""


def _reason(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _read_resume(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != path.name.split(".")[1]:
            raise _Damaged("its hash differs")
        file.seek(0)
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return state


def save_student(folder: Path, student: nn.Module, step: int) -> Checkpoint:
    """The student alone: what the run is for. Raises OSError naming the path."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in student.state_dict().items()
    }
    # One entry: of several, the library chooses the order anew each time, and the file's hash with it.
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    with _aside(folder, STUDENT) as file:
        file.write(content)
        path = file.publish(folder / STUDENT)
    return file.event("student", path, step)


def load_weights(model: nn.Module, path: str, *, field: str, num_classes: int) -> None:
    """Fill a network from a safetensors file. SpecError names what does not match."""
    try:
        given = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        fix = "Give the path of a whole safetensors file."
        raise SpecError(field, path, f"the file cannot be read ({error}).", fix) from error
    found = _differences(model.state_dict(), given, num_classes)
    if found.other_classes is not None:
        problem = (
            f"the file's network tells {found.other_classes} classes apart, the dataset has {num_classes}."
        )
        fix = "Choose weights trained on this dataset, or the dataset these weights were trained on."
        raise SpecError(field, path, problem, fix)
    if found.lines:
        shown = "; ".join(found.lines[:10])
        more = f" (and {len(found.lines) - 10} more)" if len(found.lines) > 10 else ""
        raise SpecError(
            field,
            path,
            f"the file is of another architecture: {shown}{more}.",
            "Choose the architecture it has.",
        )
    model.load_state_dict(given)


@dataclass(frozen=True)
class _Differences:
    lines: list[str]
    other_classes: int | None  # the file's number of classes, when that is all that differs


def _differences(ours: dict[str, Tensor], given: dict[str, Tensor], classes: int) -> _Differences:
    lines = [f"{key} is missing" for key in ours if key not in given]
    lines += [f"{key} is not part of the network" for key in given if key not in ours]
    pairs = [(key, tuple(t.shape), tuple(given[key].shape)) for key, t in ours.items() if key in given]
    unequal = [(key, a, b) for key, a, b in pairs if a != b]
    counts = {b[0] for _, a, b in unequal if a and b and a[0] == classes and a[1:] == b[1:]}
    only_head = bool(unequal) and all(a and b and a[0] == classes and a[1:] == b[1:] for _, a, b in unequal)
    other = counts.pop() if not lines and only_head and len(counts) == 1 else None
    lines += [f"{key} has shape {b} instead of {a}" for key, a, b in unequal]
    return _Differences(lines, other)


def _step(path: Path) -> int:
    match = _RESUME.fullmatch(path.name)
    assert match
    return int(match[1])


def _resumable(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(
        (p for p in folder.glob("resume-*.pt") if _RESUME.fullmatch(p.name)), key=_step, reverse=True
    )


# ---- writing -------------------------------------------------------------------------------------


class _Aside:
    """A file under another name until it is whole. It hashes what is written: no second copy in memory."""

    def __init__(self, file: IO[bytes], name: Path) -> None:
        self.file, self.name = file, name
        self.digest, self.size = hashlib.sha256(), 0
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        with self._remembering():
            self.file.write(view)
        self.digest.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        with self._remembering():
            self.file.flush()

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = self.failed or error
            raise

    def publish(self, path: Path) -> Path:
        """Force it to disk and put it in its place: whole, or not at all."""
        self.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.name, path)
        if os.name != "nt":  # Windows cannot open a folder
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return path

    def event(self, kind: Literal["resume", "student"], path: Path, step: int) -> Checkpoint:
        digest = self.digest.hexdigest()
        return Checkpoint(kind=kind, path=str(path), sha256=digest, bytes=self.size, step=step)


@contextmanager
def _aside(folder: Path, name: str) -> Iterator[_Aside]:
    """A new file to write and publish; whatever fails, nothing half-written stays. OSErrors name the path."""
    temporary = folder / f".writing-{name}-{os.getpid()}"
    try:
        with naming(folder / name):
            folder.mkdir(parents=True, exist_ok=True)
            file = open(temporary, "wb")  # noqa: SIM115 - closed below, whatever its last flush says
            try:
                yield _Aside(file, temporary)
            finally:
                with suppress(OSError):  # of a disk that is full, which has been said
                    file.close()
    finally:
        with suppress(OSError):  # the folder has vanished, or may no longer be written
            temporary.unlink(missing_ok=True)
