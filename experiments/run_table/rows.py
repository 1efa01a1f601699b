"""The rows of one page: what their columns show and nothing else, in a fixed number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.models import Run, RunValue, Series, Star, Tag
from experiments.run_filter.columns import Column

# Whatever the columns: a row has a link, a state and a colour.
ALWAYS = ("name", "status", "silent_since", "asked", "shelf", "project")
FIELDS: dict[str, tuple[str, ...]] = {
    "pair": ("teacher__name", "student__name", "architecture"),
    "method": ("method_keys", "purpose"),
    "acc": ("accuracy",),
    "progress": ("step", "total_steps", "epoch", "epoch_steps"),
}
OF_FIELD = {
    "shown_duration": ("started", "finished"),
    "architecture__key": ("architecture",),
    "shown_progress": (),
    "pk": (),
}


@dataclass
class Row:
    run: Run
    values: dict[str, float | str] = field(default_factory=dict)  # of RunValue
    metrics: dict[tuple[str, str], float | None] = field(default_factory=dict)  # (series, statistic)
    tags: list[str] = field(default_factory=list)
    starred: bool = False


def read(keys: Sequence[int], columns: Sequence[Column], user: Any) -> list[Row]:
    """In the order of the keys. Those that were deleted a moment ago are left out."""
    runs = _runs(keys, columns)
    rows = {key: Row(runs[key]) for key in keys if key in runs}
    wanted = {column.value for column in columns if column.value}
    if any(column.kind == "progress" for column in columns):
        wanted.add("epochs")
    values = RunValue.objects.filter(run__in=keys, key__in=wanted) if wanted else RunValue.objects.none()
    for run, name, number, text in values.values_list("run", "key", "number", "text"):
        if run in rows:
            rows[run].values[name] = text if number is None else number
    _add_metrics(rows, columns)
    if any(column.kind == "tags" for column in columns):
        _add_tags(rows)
    for key in Star.objects.filter(run__in=keys, user=user).values_list("run", flat=True):
        if key in rows:
            rows[key].starred = True
    return list(rows.values())


def _runs(keys: Sequence[int], columns: Sequence[Column]) -> dict[int, Run]:
    names = set(ALWAYS)
    for column in columns:
        own = OF_FIELD.get(column.field, (column.field,) if column.field else ())
        names.update(FIELDS.get(column.kind, own))
    related = {name.partition("__")[0] for name in names if "__" in name}
    runs = Run.objects.select_related(*sorted(related)) if related else Run.objects.all()
    return runs.only(*names, *related).in_bulk(list(keys))


def _add_metrics(rows: dict[int, Row], columns: Sequence[Column]) -> None:
    """Summaries of series: never their points."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for column in columns:
        if column.series:
            wanted[column.series].add(column.statistic)
    if not wanted:
        return
    statistics = ("last", "best", "min", "max")
    found = Series.objects.filter(run__in=list(rows), name__in=list(wanted))
    for run, name, *numbers in found.values_list("run", "name", *statistics):
        for statistic, number in zip(statistics, numbers, strict=True):
            rows[run].metrics[name, statistic] = number


def _add_tags(rows: dict[int, Row]) -> None:
    borne = Tag.runs.through.objects.filter(run__in=list(rows)).order_by("tag__name")
    for run, name in borne.values_list("run", "tag__name"):
        rows[run].tags.append(name)


def raw(column: Column, row: Row) -> Any:
    """The value as it is stored: what a CSV has."""
    run = row.run
    if column.value:
        return row.values.get(column.value)
    if column.series:
        return row.metrics.get((column.series, column.statistic))
    match column.kind:
        case "status":
            return run.state
        case "progress":
            return run.epoch
        case "seconds":
            return run.took.total_seconds() if run.took else None
        case "tags":
            return ", ".join(row.tags)
    if column.field == "architecture__key":
        return run.architecture_id  # its row is not loaded
    value: Any = run
    for name in column.field.split("__"):
        value = getattr(value, name, None)
    return value


def epochs(row: Row) -> int:
    """Of the whole run; after an early stop those it went through."""
    run = row.run
    if run.epoch_steps and run.total_steps:
        return round(run.total_steps / run.epoch_steps)
    asked = row.values.get("epochs", 0)
    return int(asked) if isinstance(asked, float) else 0


def comparable(column: Column, row: Row) -> Any:
    """What two rows differ in, if they differ in this column."""
    if column.kind == "pair":
        return row.run.teacher_id, row.run.student_id, row.run.architecture_id
    return raw(column, row)
