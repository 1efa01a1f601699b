"""How work ends early. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from worker.distill.events import Failed
from worker.distill.spec import SpecError


class StopRequested(Exception):
    """should_stop() said so; everything worth keeping has been written."""

    def __init__(self, step: int = 0) -> None:
        self.step = step
        super().__init__(f"stopped at step {step}")


class Diverged(Exception):
    """A term of the objective is no longer a finite number, or no step can be taken any more."""

    def __init__(
        self, term: str, value: float, step: int, learning_rate: float, *, reason: str = "", fix: str = ""
    ) -> None:
        self.term, self.value, self.step, self.learning_rate = term, value, step, learning_rate
        self.fix = fix or "Lower training.learning_rate or lengthen training.warmup_epochs."
        what = reason or f"{term} became {value}"
        super().__init__(f"{what} at step {step} (learning rate {learning_rate:.4g})")

    def last_good(self, step: int | None) -> None:
        """Add what is left of the run."""
        kept = f"the last good checkpoint is of step {step}" if step else "no checkpoint was written before"
        self.args = (f"{self}; {kept}",)


class OutOfMemory(Exception):
    """The device (or the machine) has not enough memory for this batch size.

    used: how much of it was in use, in words; "" if that is not known.
    """

    def __init__(self, batch_size: int, device: str, used: str = "") -> None:
        self.batch_size = batch_size
        smaller = f"set it to {batch_size // 2}" if batch_size > 1 else "choose smaller networks"
        self.fix = f"Lower training.batch_size: {smaller}, or free memory on {device}."
        super().__init__(
            f"a batch of {batch_size} does not fit in the memory of {device}{used and f' ({used})'}"
        )


class PassedOn(Exception):
    """Another process of the run has failed, and said why."""

    def __init__(self, which: str, failed: Failed) -> None:
        self.failed = failed.model_copy(update={"message": f"{failed.message.rstrip('.')} ({which})."})
        super().__init__(self.failed.message)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """An OSError of a write does not say which file it was: within the block it does."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def spec_error(error: ValidationError, prefix: str = "") -> SpecError:
    """The first thing wrong with a request, by the path of its field: `objective.terms[0].weight`."""
    first = error.errors(include_url=False)[0]
    path = prefix
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "missing":
        return SpecError(path, None, "the field is missing.", "Give it a value.")
    if first["type"] == "extra_forbidden":
        return SpecError(path, first["input"], "there is no such field.", "Remove it.")
    return SpecError(path or "request", first["input"], f"{message}.", "Correct the value.")
