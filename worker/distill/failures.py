"""What went wrong, as an event in words for the person who asked. Free of torch."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from pydantic import ValidationError

from worker.distill.errors import Diverged, OutOfMemory, PassedOn, spec_error
from worker.distill.events import Failed
from worker.distill.spec import SpecError

FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
TOO_MANY = {errno.EMFILE, errno.ENFILE}
# Libraries pass the system's word on as text.
FULL_WORDS = (
    *("No space left on device", "Disk quota exceeded"),
    *("PytorchStreamWriter failed writing", "unexpected pos "),  # torch.save's
)
TOO_MANY_WORDS = ("Too many open files",)
MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
DEVICE_WORDS = ("CUDA error", "CUDA driver error", "CUDNN_STATUS_", "cuDNN error", "CUBLAS_STATUS_")
# The program's own mistakes, which would be made on any device.
PROGRAM_WORDS = ("device-side assert", "invalid argument", "invalid configuration", "NOT_SUPPORTED")


def failure(error: BaseException) -> Failed:
    """The event to end with."""
    if isinstance(error, ValidationError):
        error = spec_error(error)
    if isinstance(error, PassedOn):
        return error.failed
    found = _of_the_system(error) or _of_the_request(error) or _of_the_device(error)
    if found is None:
        found = Failed(code="error", message=f"{type(error).__name__}: {error}")
    if found.code in ("error", "device_lost"):
        found.traceback = "".join(traceback.format_exception(error))[-20_000:]
    return found


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _of_the_system(error: BaseException) -> Failed | None:
    """A disk, a right, a limit: whatever stumbled over it."""
    if isinstance(error, Diverged | OutOfMemory):
        return None
    if (met := _met(error, FULL, FULL_WORDS)) is not None:
        return Failed(
            code="disk_full",
            message=f"The disk is full{_where(met)}.",
            fix="Free space there (or files: `df -i`); a run goes on by itself from its last checkpoint.",
        )
    if (met := _met(error, TOO_MANY, TOO_MANY_WORDS)) is not None:
        return Failed(
            code="error",
            message=f"Too many files are open{_where(met)}; the worker's limit is {_limit()}.",
            fix="Raise the limit (`ulimit -n`) where the worker is started, then try again.",
        )
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        fix = "Give the worker's user the right to it, or mount its disk writable; then try again."
        return Failed(code="permission", message=f"The worker may not use a file{_where(error)}.", fix=fix)
    return None


def _met(error: BaseException, numbers: set[int], words: tuple[str, ...]) -> BaseException | None:
    """The first in the chain that says one of these."""
    for link in _chain(error):
        library = isinstance(link, RuntimeError | OSError | SpecError) or "Safetensor" in type(link).__name__
        said = library and any(word in str(link) for word in words)
        if said or (isinstance(link, OSError) and link.errno in numbers):
            return link
    return None


def _where(error: BaseException) -> str:
    """' (path: what the system said)'."""
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename
        return f" ({path}: {error.strerror})" if path is not None else f" ({error.strerror})"
    return f" ({_line(error)})"


def _limit() -> str:
    try:
        import resource
    except ImportError:
        return "unknown"
    return str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _of_the_request(error: BaseException) -> Failed | None:
    match error:
        case SpecError():
            field, value, fix = error.field, _short(error.value), error.fix
            return Failed(code="spec", message=str(error), field=field, value=value, fix=fix)
        case Diverged():
            field, value, fix = error.term, str(error.value), error.fix
            return Failed(code="nan", message=f"{error}.", field=field, value=value, fix=fix)
        case OutOfMemory():
            field, value, fix = "training.batch_size", str(error.batch_size), error.fix
            message = f"Out of memory: {error}."
            return Failed(code="out_of_memory", message=message, field=field, value=value, fix=fix)
    return None


def _of_the_device(error: BaseException) -> Failed | None:
    """Memory that ran out outside training; a GPU that failed. torch has many types for it, and few words."""
    text = str(error)
    if isinstance(error, MemoryError) or (_is_torchs(error) and any(word in text for word in MEMORY_WORDS)):
        fix = "Choose a smaller network or smaller images, or a machine with more memory."
        return Failed(code="out_of_memory", message=f"Out of memory: {_line(error)}.", fix=fix)
    lost = any(word in text for word in DEVICE_WORDS) or type(error).__name__ == "AcceleratorError"
    if _is_torchs(error) and lost and not any(word in text for word in PROGRAM_WORDS):
        fix = "The run can go on on another device; look at this one (`nvidia-smi`, `dmesg`) or restart it."
        return Failed(code="device_lost", message=f"The device failed: {_line(error)}.", fix=fix)
    return None


def _is_torchs(error: BaseException) -> bool:
    """torch's errors of devices are RuntimeErrors all: OutOfMemoryError, AcceleratorError, plain ones."""
    return isinstance(error, RuntimeError)


def _line(error: BaseException) -> str:
    """The first line of what it says: torch adds pages about debugging."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:199] + "…"
