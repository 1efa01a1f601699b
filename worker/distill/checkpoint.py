"""Files that are whole or absent: written aside, forced to disk, hashed, renamed.

A resume checkpoint carries its hash in its name, so that file and hash cannot part:
`resume-<step>.<sha256>.pt`. The last two are kept.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from worker.distill.events import Checkpoint, Log, Reporter
from worker.distill.spec import SpecError

KEPT = 2
STUDENT = "student.safetensors"
_RESUME = re.compile(r"resume-(\d+)\.([0-9a-f]{64})\.pt")


def save_resume(folder: Path, state: dict[str, Any], step: int) -> Checkpoint:
    """Write everything a run needs to go on exactly where it was; drop all but the last two."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"resume-{step:010d}.{digest}.pt"
    _write(path, content)
    # Of one step there is one file: a stop can come at the step whose checkpoint is already there.
    same_step = [old for old in _resumable(folder) if _step(old) == step and old != path]
    for old in same_step + [p for p in _resumable(folder) if p not in same_step][KEPT:]:
        old.unlink(missing_ok=True)
    return Checkpoint(kind="resume", path=str(path), sha256=digest, bytes=len(content), step=step)


def load_resume(folder: Path, report: Reporter) -> dict[str, Any] | None:
    """The newest checkpoint whose hash is right; None when there is none."""
    for leftover in folder.glob(".writing-*"):
        leftover.unlink(missing_ok=True)
    for path in _resumable(folder):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.name.split(".")[1]:
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return state
        text = f"The checkpoint {path.name} is damaged (its hash differs); trying the one before."
        report(Log(level="warning", text=text))
    return None


def save_student(folder: Path, student: nn.Module, step: int) -> Checkpoint:
    """The student alone: what the run is for."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in student.state_dict().items()
    }
    # One entry: of several, the library chooses the order anew each time, and the file's hash with it.
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    _write(folder / STUDENT, content)
    digest = hashlib.sha256(content).hexdigest()
    path = str(folder / STUDENT)
    return Checkpoint(kind="student", path=path, sha256=digest, bytes=len(content), step=step)


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


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".writing-{path.name[:40]}-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # Windows cannot open a folder
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
