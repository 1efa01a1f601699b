"""What the dialog offers: columns by subject, the chosen ones in their order; what runs can be grouped by."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from experiments.models import Run
from experiments.run_filter import Names
from experiments.run_filter.columns import HEADLINES, RESULTS, Column, metric, parameters
from experiments.run_filter.complete import of_these_runs

from . import state
from .state import UNGROUPED, State


@dataclass(frozen=True)
class Part:
    title: str
    columns: list[Column]


@dataclass(frozen=True)
class Chooser:
    chosen: list[Column]
    parts: list[Part]
    metrics: list[dict[str, Any]]  # a row each: its name and a column for each statistic
    grouped: list[Column]
    groupable: list[Column]


def of(runs: QuerySet[Run], asked: State) -> Chooser:
    """`runs`: those of the project."""
    names = Names(runs)
    chosen, grouped = state.columns(asked.columns, names), state.grouping(asked.group, names)
    theirs = of_these_runs(runs)
    own = [column for column in theirs if not column.series]
    series = list(dict.fromkeys(column.series for column in theirs if column.series))
    parts = [
        Part(_("Overview"), list(HEADLINES)),
        Part(_("Results"), list(RESULTS)),
        Part(_("Parameters"), [*parameters().values(), *own]),
    ]
    statistics = ("last", "best", "min", "max")
    metrics = [{"name": name, "columns": [metric(name, one) for one in statistics]} for name in series]
    offered = [c for part in (parts[0], parts[2]) for c in part.columns if c.kind not in UNGROUPED]
    return Chooser(chosen, parts, metrics, grouped, _by_use(offered))


def _by_use(offered: list[Column]) -> list[Column]:
    """What people group by most, first; numbers that each run has its own of, not at all."""
    first = ("settings", "method", "student", "teacher", "dataset", "experiment", "owner", "status")
    never = {"duration", "id", "epoch", "architecture"}
    place: dict[str, int] = defaultdict(lambda: len(first), {key: n for n, key in enumerate(first)})
    return sorted((c for c in offered if c.key not in never), key=lambda column: place[column.key])
