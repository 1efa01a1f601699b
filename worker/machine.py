"""How busy the worker's machine is: processors, memory, disk, and its GPUs where `nvidia-smi` is there.

Asked with every heartbeat, so it is cheap: what takes a moment is kept for a while, and a tool that hangs
is left alone for longer. Bytes and percent, and nothing that is not known.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

log = logging.getLogger(__name__)

KEPT = 4.0  # seconds an answer is good for
GPU_KEPT = 10.0
GPU_REST = 300.0  # after it did not answer in time
GPU_PATIENCE = 1.0
ENGINE = "worker.distill"  # in the command line of every process that computes
MIB = 1 << 20
QUERY = "name,utilization.gpu,memory.used,memory.total"


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
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            if any(ENGINE in word for word in child.cmdline()):
                total += child.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total


def gpus() -> tuple[list[dict[str, Any]], float]:
    """What `nvidia-smi` says of the GPUs this worker may use, and for how many seconds that is good."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [], GPU_REST
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    command = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", *(["-i", seen] if seen else [])]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=GPU_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi did not answer (%s); asked again in %d s.", error, GPU_REST)
        return [], GPU_REST
    if asked.returncode:
        return [], GPU_REST
    rows = (line.split(", ") for line in asked.stdout.splitlines())
    return [_gpu(row) for row in rows if len(row) == len(QUERY.split(","))], GPU_KEPT


def _gpu(row: list[str]) -> dict[str, Any]:
    name, busy, used, total = row
    return {
        "name": name,
        "utilisation": _number(busy),
        "memory_used": _bytes(used),
        "memory_total": _bytes(total),
    }


def _number(text: str) -> float | None:
    """None for what the driver does not tell: [N/A], [Not Supported]."""
    try:
        return float(text)
    except ValueError:
        return None


def _bytes(mebibytes: str) -> int | None:
    number = _number(mebibytes)
    return None if number is None else int(number) * MIB
