"""What the API says about a run."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ninja import Schema

from experiments.models import Run, Teacher


class Ref(Schema):
    id: int
    name: str


class Problem(Schema):
    field: str
    value: Any = None
    message: str
    fix: str = ""


class Message(Schema):
    detail: str


class State(Schema):
    """What changes while a run goes on."""

    id: int
    status: str
    state: str
    phase: str
    reason: str
    asked: str
    hold: str
    inexact: str
    priority: int
    step: int
    total_steps: int
    epoch: int
    epochs: int
    progress: float
    rate: float | None
    eta: float | None
    accuracy: float | None
    shelf: str


class Event(Schema):
    """A line of a run's history."""

    at: datetime
    text: str
    status: str
    actor: str


class AttemptRow(Schema):
    """One try of a worker; `outcome` is empty while it is at work."""

    number: int
    worker: str
    device: str
    started: datetime
    ended: datetime | None
    from_step: int
    step: int
    outcome: str
    reason: str


class Notes(Schema):
    """`version` goes back with a change, which is refused if somebody saved since."""

    text: str
    version: int
    by: str | None
    saved: datetime | None


class NotesConflict(Notes):
    detail: str


class WorkerRow(Schema):
    name: str
    host: str
    queues: list[str]
    device: str
    device_kind: str
    versions: dict[str, Any]
    started: datetime
    heartbeat: datetime
    alive: bool
    drain: bool
    trouble: str
    usage: dict[str, Any]
    busy: bool
    run: int | None


class RunRow(State):
    name: str
    project: int
    experiment: int | None
    purpose: str
    dataset: Ref
    architecture: str
    student: Ref | None
    teacher: Ref | None
    control: int | None
    methods: str
    owner: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    parameters: int | None
    bytes: int | None
    flops: int | None
    latency_ms: float | None
    teacher_accuracy: float | None
    gain: float | None
    gap_closed: float | None

    @staticmethod
    def resolve_project(run: Run) -> int:
        return run.project_id

    @staticmethod
    def resolve_experiment(run: Run) -> int | None:
        return run.experiment_id

    @staticmethod
    def resolve_control(run: Run) -> int | None:
        return run.control_id

    @staticmethod
    def resolve_architecture(run: Run) -> str:
        return run.architecture_id

    @staticmethod
    def resolve_methods(run: Run) -> str:
        return run.method_keys

    @staticmethod
    def resolve_owner(run: Run) -> str | None:
        return run.owner.get_username() if run.owner else None


class RunDetail(RunRow):
    tags: list[str]
    more_teachers: list[Ref]
    mixing: dict[str, Any]
    frozen_stages: int
    training: dict[str, Any]
    objective: dict[str, Any]
    metrics: dict[str, Any]
    results: dict[str, Any]
    compression: dict[str, float]

    @staticmethod
    def resolve_tags(run: Run) -> list[str]:
        return [tag.name for tag in run.tags.all()]

    @staticmethod
    def resolve_more_teachers(run: Run) -> list[Teacher]:
        return run.teachers[1:]

    @staticmethod
    def resolve_compression(run: Run) -> dict[str, float]:
        return run.compression()


class RunPage(Schema):
    count: int
    limit: int
    offset: int
    items: list[RunRow]


class Line(Schema):
    n: int
    wall: float
    level: str
    text: str


class Log(Schema):
    lines: list[Line]
    more: bool


class Curve(Schema):
    """Points of one series: steps, values (null: not finite), Unix times; and where it is not finite within
    the window, drawn or not: [first step, last step, "nan" | "inf" | "-inf"]. `exact`: these are all points;
    else the lowest and the highest of each stretch.
    """

    exact: bool
    s: list[int]
    v: list[float | None]
    w: list[float]
    odd: list[tuple[int, int, str]]


class RunSeries(Schema):
    """Live frames after `cursor` go on where the points end; those at a known step are repeats."""

    cursor: str
    run: State
    series: dict[str, Curve]


class ManySeries(Schema):
    runs: dict[str, RunSeries]


class Drawn(Schema):
    """A run whose curves a page shows."""

    id: int
    name: str
    role: str
    colour: str
    cursor: str
    state: State
    epoch_steps: float | None


class Charts(Schema):
    runs: list[Drawn]
    charts: list[dict[str, Any]]
