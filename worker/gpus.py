"""The GPUs this process may use, as NVIDIA's driver sees them: JSON on standard output, and the end.

A process of its own, because a driver in trouble can hang whoever asks it, and because the library's state
would not survive Celery's forks. Exits with 3 where there is no driver or no GPU to speak of.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pynvml

NONE = 3  # exit code


def handles() -> list[Any]:
    """As CUDA_VISIBLE_DEVICES names them: numbers, UUIDs or their beginnings; the first bad one ends it."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    if wanted is None:
        return every
    found = []
    for name in (word.strip() for word in wanted.split(",")):
        handle = _named(name, every)
        if handle is None:
            break
        found.append(handle)
    return found


def _named(name: str, every: list[Any]) -> Any:
    if name.isdecimal():
        return every[int(name)] if int(name) < len(every) else None
    if name.startswith("MIG-"):
        return asked(pynvml.nvmlDeviceGetHandleByUUID, name)
    alike = [handle for handle in every if pynvml.nvmlDeviceGetUUID(handle).startswith(name)] if name else []
    return alike[0] if len(alike) == 1 else None


def asked(function: Callable[..., Any], *words: Any) -> Any:
    """None for what this GPU does not tell."""
    try:
        return function(*words)
    except pynvml.NVMLError:
        return None


def state(handle: Any) -> dict[str, Any]:
    """Percent, bytes, °C and watts."""
    rates = asked(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = asked(pynvml.nvmlDeviceGetMemoryInfo, handle)
    power = asked(pynvml.nvmlDeviceGetPowerUsage, handle)
    return {
        "name": asked(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU",
        "utilisation": rates and float(rates.gpu),
        "memory_used": memory and memory.used,
        "memory_total": memory and memory.total,
        "temperature": asked(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "power": None if power is None else power / 1000,
    }


def main() -> int:
    try:
        pynvml.nvmlInit()
        found = [state(handle) for handle in handles()]
    except pynvml.NVMLError as error:
        sys.stderr.write(f"{error}\n")
        return NONE
    sys.stdout.write(json.dumps(found))
    return 0 if found else NONE


if __name__ == "__main__":
    raise SystemExit(main())
