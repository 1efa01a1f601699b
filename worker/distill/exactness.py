"""What a run's bits depend on beside its request: kept with every checkpoint, compared at every resume.

Where nothing differs, a run that was interrupted ends with the very weights of an undisturbed one. Where
something does it goes on all the same, and says so.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from worker.distill.runtime import hardware

if TYPE_CHECKING:
    from worker.distill.assemble import Run

HERE = Path(__file__).parent
ON_CPU = ("instructions", "threads")  # what matters only where a CPU computes


def circumstances(run: Run) -> dict[str, Any]:
    """By name; plain values."""
    return {
        "torch": str(torch.__version__),
        "engine": engine(),
        "device": hardware(run.device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": run.group.size,
        "deterministic": run.device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
    }


@functools.cache
def engine() -> str:
    """sha256 of the engine's code, as this process has found it."""
    digest = hashlib.sha256()
    for path in sorted(HERE.rglob("*.py")):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def differences(then: dict[str, Any] | None, now: dict[str, Any], device: torch.device) -> list[str]:
    """In words: what stands against an exact resume under `now` of what was saved under `then`."""
    if then is None:
        return ["the checkpoint does not say what it was made on"]
    found = []
    for name, new in now.items():
        if name != "deterministic" and then.get(name) != new and (name not in ON_CPU or device.type == "cpu"):
            found.append(_words(name, then.get(name), new))
    if not (now["deterministic"] and then.get("deterministic")):
        found.append("the device adds in an order that is not fixed (no deterministic mode)")
    return found


def _words(name: str, old: Any, new: Any) -> str:
    match name:
        case "torch":
            return f"torch {old} → {new}"
        case "engine":
            return "another version of the engine"
        case "device":
            return f"another device: {old} → {new}"
        case "instructions":
            return f"another CPU: {old} → {new} instructions"
        case "threads":
            return f"{_count(old, 'thread')} → {_count(new, 'thread')}"
    return f"{_count(old, 'process', 'es')} → {_count(new, 'process', 'es')}"


def _count(number: Any, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
