"""What the engine runs on: the device, the seeds, and torchvision beside a torch it was not compiled for."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from worker.distill.spec import SpecError

# ---- torchvision ---------------------------------------------------------------------------------
# PyPI's torchvision is compiled against PyPI's torch (CUDA). Beside a CPU-only torch its compiled library
# cannot be loaded, and `import torchvision` dies with "operator torchvision::nms does not exist": it gives
# a shape function to operators which that library would have declared. We declare those two first. The
# classification models, the datasets and the transforms need no compiled operator. Detection would; it then
# fails with torch's own "not implemented" message. Where the library loads, nothing is done.

_NEEDED_AT_IMPORT = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a Library takes its declarations with it when it is collected


@functools.cache
def _compiled_operators() -> str:
    """'' when torchvision's compiled library loads, else the loader's reason. Does not import torchvision."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return "torchvision is not installed"
    folder = Path(spec.origin).parent
    libraries = [path for pattern in ("_C*.so", "_C*.pyd") for path in folder.glob(pattern)]
    if not libraries:
        return "torchvision has no compiled library"
    try:
        torch.ops.load_library(str(libraries[0]))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        return str(error).splitlines()[0].replace(str(folder), folder.name)
    return ""


def import_torchvision() -> ModuleType:
    """torchvision with its models, importable beside any torch. Costs about a second: call it late."""
    if _compiled_operators() and not _declared and importlib.util.find_spec("torchvision"):
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        _declared.append(library)
        for name in _NEEDED_AT_IMPORT:
            if not hasattr(torch.ops.torchvision, name):
                library.define(name + _SIGNATURE)  # type: ignore[no-untyped-call]
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise SpecError(
            "torchvision", None, "is not installed.", "Install the worker's extra: pip install .[worker]"
        ) from error


def torchvision_state() -> str:
    """One line for `doctor`."""
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return "torchvision is not installed"
    reason = _compiled_operators()
    if not reason:
        return f"torchvision {version}, compiled operators loaded"
    return (
        f"torchvision {version} without its compiled operators beside torch {torch.__version__} ({reason}); "
        "models, datasets and transforms work, detection operators do not"
    )


# ---- device --------------------------------------------------------------------------------------


def available_devices() -> list[str]:
    """What this machine can compute on, best first; 'cpu' is always there."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; 'auto' is the best there is. SpecError when the machine lacks it."""
    found = available_devices()
    if name == "auto":
        return torch.device(found[0])
    if name not in found:
        raise SpecError(
            "device", name, "this machine does not have it.", f"Use one of: auto, {', '.join(found)}."
        )
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The hardware in words, without which no latency can be read: 'AMD EPYC 7B13 (CPU, 2 threads)'."""
    if device.type != "cpu":
        return hardware(device)
    threads = torch.get_num_threads()
    return f"{_processor()} (CPU, {threads} thread{'s' if threads != 1 else ''})"


def hardware(device: torch.device) -> str:
    """The chip that computes: 'AMD EPYC 7B13 (CPU)'."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name} ({device.type.upper()})"


@functools.cache
def _processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait until everything queued on `device` is done; a CPU never queues."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def is_out_of_memory(error: BaseException) -> bool:
    """Devices say it with a type; the CPU's allocator only in words."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(w in str(error) for w in words)


def memory_used(device: torch.device) -> str:
    """'71.2 of 79.1 GiB in use at its fullest'; '' where the device does not know it."""
    if device.type != "cuda":
        return ""
    peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
    return f"{peak / 2**30:.1f} of {total / 2**30:.1f} GiB in use at its fullest"


# ---- seeds ---------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and torch's generators (every device); the same convolution kernels every time."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # cuBLAS reads this when it first starts; without it two equal runs may differ in the last bit.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
