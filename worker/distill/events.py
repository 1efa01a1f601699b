"""What the engine says back, one JSON object a line. Free of torch.

`report(event)` is the engine's only way out: `print` is a reporter, `list.append` is a reporter. On a
child's pipe an event is `event.model_dump_json()`, and `parse(line)` gives it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Phase(BaseModel):
    """The work enters a new phase: starting, data, model, teacher, training, evaluation, compression …"""

    type: Literal["phase"] = "phase"
    name: str
    detail: str = ""


class Progress(BaseModel):
    """How far training is. `rate` in samples per second; `eta` in seconds."""

    type: Literal["progress"] = "progress"
    step: int
    total_steps: int
    epoch: int
    epochs: int
    rate: float | None = None
    eta: float | None = None


class Metrics(BaseModel):
    """A block of points: for each series the values at `steps` (same length). None is NaN.

    `wall` is the Unix time of each step. Engines send a block every ~0.2 s, not a line a step. NaN and ±Inf
    are written as NaN, Infinity and -Infinity, which Python's and pydantic's parsers read.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    type: Literal["metrics"] = "metrics"
    steps: list[int]
    wall: list[float]
    values: dict[str, list[float | None]]


class Log(BaseModel):
    """A line for the console of the run."""

    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    text: str
    wall: float = Field(default_factory=time.time)


class Checkpoint(BaseModel):
    """A file is whole, hashed and in its place. kind: resume (all state) or student (weights only)."""

    type: Literal["checkpoint"] = "checkpoint"
    kind: Literal["resume", "student"]
    path: str
    sha256: str
    bytes: int
    step: int


class Resumed(BaseModel):
    """Training goes on from the checkpoint of `step`. `exact`: it will end with the very bits that the
    undisturbed run would have had; `why` says in words what stands against it ("" when nothing does). Said
    again, not exact, when something turns up later: the teacher's outputs no longer fit the cache.
    """

    type: Literal["resumed"] = "resumed"
    step: int
    exact: bool = True
    why: str = ""


class Alive(BaseModel):
    """A sign of life, at most every few seconds: the work moves, though it has nothing else to say."""

    type: Literal["alive"] = "alive"


class Result(BaseModel):
    """The command's outcome; last event of a success. `data` is documented at each command."""

    type: Literal["result"] = "result"
    data: dict[str, Any]


class Stopped(BaseModel):
    """The work ended early because it was told to. Last event."""

    type: Literal["stopped"] = "stopped"
    step: int = 0


class Failed(BaseModel):
    """The work cannot go on. Last event.

    `code`: spec (the request is wrong), nan (diverged), out_of_memory, disk_full, permission (a path may not
    be read or written), device_lost (the device failed: other runs on it would too), refused, error.
    """

    type: Literal["failed"] = "failed"
    code: Literal[
        "spec", "nan", "out_of_memory", "disk_full", "permission", "device_lost", "refused", "error"
    ]
    message: str
    field: str = ""
    value: str = ""
    fix: str = ""
    traceback: str = ""


Event = Annotated[
    Phase | Progress | Metrics | Log | Checkpoint | Resumed | Alive | Result | Stopped | Failed,
    Field(discriminator="type"),
]
Reporter = Callable[[BaseModel], None]
_adapter: TypeAdapter[Event] = TypeAdapter(Event)


def parse(line: str | bytes) -> Event:
    """One line of the pipe as an event. Raises pydantic.ValidationError when it is none."""
    return _adapter.validate_json(line)
