"""How busy the worker's machine is: processors, memory, disk, and its GPUs where NVIDIA's driver is there.

Asked with every heartbeat, so it is cheap: what takes a moment is kept for a while, and a driver that hangs
is left alone for longer. Bytes and percent, and nothing that is not known.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

log = logging.getLogger(__name__)

KEPT = 4.0  # seconds an answer is good for
GPU_REST = 300.0  # after there was none, or it did not come in time
GPU_PATIENCE = 3.0  # a child has to start and to load the driver's library
GPU_COMMAND = [sys.executable, "-m", "worker.gpus"]
ROOT = Path(__file__).resolve().parents[1]
ENGINE = "worker.distill"  # in the command line of every process that computes


class Kept:
    """The last answer, and until when it is good enough."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}
        self.gpus: list[dict[str, Any]] = []
        self.until = self.gpus_until = 0.0


_kept = Kept()


def usage(data: Path) -> dict[str, Any]:
    """cpu, memory (percent), load (of one minute), memory_used, memory_total, engine_memory, disk_free (bytes
    on the disk of `data`), gpus."""
    now = time.monotonic()
    if now >= _kept.until:
        _kept.usage = _machine() | {"engine_memory": engine_memory(), "disk_free": _free(data)}
        _kept.until = now + KEPT
    if now >= _kept.gpus_until:
        _kept.gpus, rest = gpus()
        _kept.gpus_until = now + rest
    return {**_kept.usage, "gpus": _kept.gpus}


def _machine() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {
        "cpu": psutil.cpu_percent(),
        "cores": psutil.cpu_count(),
        "load": round(psutil.getloadavg()[0], 2),
        "memory": memory.percent,
        "memory_used": memory.total - memory.available,
        "memory_total": memory.total,
    }


def _free(data: Path) -> int | None:
    try:
        return shutil.disk_usage(data).free
    except OSError:  # the folder is of a disk that is gone
        return None


def engine_memory() -> int:
    """Resident bytes of the engines this worker has: the one at work and the warm spare."""
    return sum(_resident(child) for child in psutil.Process().children(recursive=True) if _computes(child))


def memory_of(pid: int) -> int | None:
    """Resident bytes of a process and all it started; None where it has ended."""
    try:
        process = psutil.Process(pid)
        return _resident(process) + sum(map(_resident, process.children(recursive=True))) or None
    except psutil.Error:
        return None


def _computes(process: psutil.Process) -> bool:
    try:
        return any(ENGINE in word for word in process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def gpus() -> tuple[list[dict[str, Any]], float]:
    """The GPUs this worker may use, see `worker.gpus.state`, and for how many seconds that is good."""
    try:
        asked = subprocess.run(
            GPU_COMMAND, cwd=ROOT, capture_output=True, text=True, timeout=GPU_PATIENCE, check=True
        )
        found: list[dict[str, Any]] = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        log.warning("The GPUs' driver did not answer (%s); asked again in %d s.", error, GPU_REST)
        return [], GPU_REST
    except subprocess.CalledProcessError:  # there is none
        return [], GPU_REST
    return found, KEPT
