"""What the runs table shows, as lines of a file: every page, values as they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from experiments import run_filter
from experiments.models import Run
from experiments.run_filter import Names
from experiments.run_filter.columns import Column

from . import groups, rows, state
from .state import State
from .table import label

AT_ONCE = 500


def lines(runs: QuerySet[Run], asked: State, names: Names, user: Any) -> Iterator[list[Any]]:
    """A head, then a line a run; of a grouped table a line a group. Raises BadQuery before the first."""
    columns, by = state.columns(asked.columns, names), state.grouping(asked.group, names)
    if by:
        return _of_groups(runs, asked, names, user, by, columns)
    found = run_filter.filtered(runs, asked.q, asked.sort, user)
    return _of_runs(list(found.values_list("pk", flat=True)), columns, user)


def _of_runs(keys: list[int], columns: list[Column], user: Any) -> Iterator[list[Any]]:
    yield ["id", *(name for column in columns if column.key != "id" for name in _heads(column))]
    for begin in range(0, len(keys), AT_ONCE):
        for row in rows.read(keys[begin : begin + AT_ONCE], columns, user):
            yield [row.run.pk, *(v for c in columns if c.key != "id" for v in _values(c, row))]


def _heads(column: Column) -> list[str]:
    return ["teacher", "student"] if column.kind == "pair" else [column.key]


def _values(column: Column, row: rows.Row) -> list[Any]:
    if column.kind == "pair":
        run = row.run
        own = run.student.name if run.student else run.architecture_id
        return [run.teacher.name if run.teacher else None, own]
    value = rows.raw(column, row)
    return [value.isoformat() if hasattr(value, "isoformat") else value]


def _of_groups(
    runs: QuerySet[Run], asked: State, names: Names, user: Any, by: list[Column], columns: list[Column]
) -> Iterator[list[Any]]:
    sort = run_filter.sorted_by(asked.sort, names)
    numbers = [column for column in columns if column.numeric and column not in by]
    reached = run_filter.chosen(runs, asked.q, user, [*by, *numbers, sort], names)
    found = groups.ordered(groups.groups(reached, by, [*numbers, sort]), by, sort, asked.sort.startswith("-"))
    return _written(found, by, numbers)


def _written(found: list[groups.Group], by: list[Column], numbers: list[Column]) -> Iterator[list[Any]]:
    heads = [f"{column.key} {part}" for column in numbers for part in ("mean", "std", "n")]
    yield [*(column.key for column in by), "runs", *heads]
    for group in found:
        own = [label(column, group, value) for column, value in zip(by, group.values, strict=True)]
        means = [group.means.get(column.key) for column in numbers]
        yield [*own, group.n, *(p for m in means for p in ((m.mean, m.deviation, m.n) if m else ("", "", 0)))]
