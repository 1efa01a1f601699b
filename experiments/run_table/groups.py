"""Runs in groups: one row for all that share a value, with the mean and the scatter of their numbers.

The database adds up; so ten thousand runs cost one query, and pages are made of what it gives back.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Avg, Count, FloatField, Max, Min, Q, QuerySet, Sum
from django.db.models.functions import Cast

from experiments.models import Run
from experiments.run_filter import sql
from experiments.run_filter.columns import Column

ALIKE = {"text", "pair", "method", "purpose", "status", "either"}  # shown where all runs have the same
NOISE = 1e-12  # of the mean's square: less is rounding, not scatter


@dataclass(frozen=True)
class Mean:
    n: int
    mean: float
    deviation: float | None  # of the sample; None for a single run


@dataclass
class Group:
    values: tuple[Any, ...]  # of the columns it is made by
    where: dict[str, Any]  # what its runs have in common, for the database
    n: int
    newest: datetime
    name: str  # of one of its runs
    means: dict[str, Mean]
    alike: dict[str, Any]  # the one value of all runs; missing where they differ

    @property
    def key(self) -> str:
        """Its name in an address."""
        return f"{zlib.crc32(repr(self.values).encode()):08x}"


def names_of(column: Column) -> list[str]:
    """What the database groups by."""
    return [sql.number(column), sql.text(column)] if column.value else [sql.number(column)]


def groups(runs: QuerySet[Run], by: Sequence[Column], columns: Sequence[Column]) -> list[Group]:
    """All groups of the runs, which have the values of `by` and `columns` within reach."""
    keys = [name for column in by for name in names_of(column)]
    numbers = [column for column in columns if column.numeric and column.key != "id"]
    words = [column for column in columns if column.kind in ALIKE and column not in by]
    sums: dict[str, Any] = {"runs_in_it": Count("pk"), "newest": Max("created"), "one": Min("name")}
    for place, column in enumerate(numbers):
        number = Cast(
            sql.number(column), FloatField()
        )  # the square of a whole number may be too large for one
        sums |= {f"n{place}": Count(number), f"mean{place}": Avg(number)}
        sums[f"square{place}"] = Sum(number * number)
    for place, column in enumerate(words):
        name = sql.text(column)
        sums |= {f"low{place}": Min(name), f"high{place}": Max(name)}
    found = runs.order_by().values(*keys).annotate(**sums)
    return [_group(row, keys, by, numbers, words) for row in found]


def summed(
    runs: QuerySet[Run], by: Sequence[Column], columns: Sequence[Column], page: list[Group]
) -> list[Group]:
    """The groups of a page with all their columns: of the others only the order had to be known."""
    first = names_of(by[0])
    among = Q(pk__in=[])
    for name in first:
        among |= Q(
            **{
                f"{name}__in": {
                    group.where[name] for group in page if group.where.get(name) not in ("", None)
                }
            }
        )
    if any(group.values[0] is None for group in page):
        among = Q()
    found = {group.values: group for group in groups(runs.filter(among), by, columns)}
    return [found[group.values] for group in page if group.values in found]


def _group(
    row: dict[str, Any], keys: list[str], by: Sequence[Column], numbers: list[Column], words: list[Column]
) -> Group:
    values = tuple(next((row[n] for n in names_of(c) if row[n] not in (None, "")), None) for c in by)
    means = {
        column.key: _mean(row[f"n{place}"], row[f"mean{place}"], row[f"square{place}"])
        for place, column in enumerate(numbers)
        if row[f"n{place}"]
    }
    alike = {
        column.key: row[f"low{place}"]
        for place, column in enumerate(words)
        if row[f"low{place}"] == row[f"high{place}"]
    }
    where = {
        (f"{name}__isnull" if row[name] is None else name): True if row[name] is None else row[name]
        for name in keys
    }
    return Group(values, where, row["runs_in_it"], row["newest"], row["one"], means, alike)


def _mean(n: int, mean: float, square: float) -> Mean:
    mean, square = float(mean), float(square)  # PostgreSQL averages whole numbers as decimals
    if n < 2:
        return Mean(n, mean, None)
    variance = (square - n * mean * mean) / (n - 1)
    return Mean(n, mean, math.sqrt(variance) if variance > NOISE * mean * mean else 0.0)


def ordered(found: list[Group], by: Sequence[Column], column: Column, down: bool) -> list[Group]:
    """By what they are made by, by a mean, by what all their runs have; else by their newest run."""

    def value(group: Group) -> Any:
        for own, there in zip(by, group.values, strict=True):
            if own.key == column.key:
                return there
        mean = group.means.get(column.key)
        return mean.mean if mean else group.alike.get(column.key)

    if column.kind == "moment":
        return sorted(found, key=lambda group: group.newest, reverse=down)
    with_value = [group for group in found if value(group) is not None]
    without = [group for group in found if value(group) is None]
    return sorted(with_value, key=lambda group: _comparable(value(group)), reverse=down) + without


def _comparable(value: Any) -> tuple[int, float, str]:
    """Numbers before texts."""
    return (1, 0.0, value.casefold()) if isinstance(value, str) else (0, float(value), "")
