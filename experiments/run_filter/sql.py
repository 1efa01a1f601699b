"""Columns as SQL: how a value of a run is reached, without its JSON and without the points of its curves."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

from django.db.models import Case, F, FilteredRelation, FloatField, Func, Q, QuerySet, Value, When
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone

from experiments.models import Run

from .columns import Column


class Seconds(Func):
    """From its second moment to its first. Django's own difference calls Python for each row of SQLite."""

    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "((julianday(%(expressions)s)) * 86400.0)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=") - julianday(", **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "EXTRACT(EPOCH FROM (%(expressions)s))::double precision"
        return self.as_sql(compiler, connection, template=template, arg_joiner=" - ", **context)


def _progress() -> Any:
    share = Cast(F("step"), FloatField()) / Cast(F("total_steps"), FloatField())
    return Case(
        When(status=Run.Status.SUCCEEDED, then=Value(1.0)),
        When(total_steps__gt=0, then=share),
        default=Value(0.0),
        output_field=FloatField(),
    )


EXPRESSIONS: dict[str, Callable[[], Any]] = {
    "shown_progress": _progress,
    "shown_duration": lambda: Seconds(Coalesce(F("finished"), Value(timezone.now())), F("started")),
}


def alias(column: Column) -> str:
    """A name for its join that no text of a person can disturb."""
    return f"of_{zlib.crc32((column.series or column.value).encode()):08x}"


def number(column: Column) -> str:
    """The annotation that holds its number (of a text column: its text)."""
    if column.series:
        return f"{alias(column)}_{column.statistic}"
    return f"{alias(column)}_number" if column.value else column.field


def text(column: Column) -> str:
    """The annotation that holds its text."""
    return f"{alias(column)}_text" if column.value else column.field


def reached(runs: QuerySet[Run], columns: Iterable[Column]) -> QuerySet[Run]:
    """The runs with the values of these columns joined on. One index answers each join."""
    joins: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for column in columns:
        if column.series:
            name = alias(column)
            joins[name] = FilteredRelation("series", condition=Q(series__name=column.series))
            values[number(column)] = F(f"{name}__{column.statistic}")
        elif column.value:
            name = alias(column)
            joins[name] = FilteredRelation("values", condition=Q(values__key=column.value))
            values[number(column)] = F(f"{name}__number")
            values[text(column)] = F(f"{name}__text")
        elif column.field in EXPRESSIONS:
            values[column.field] = EXPRESSIONS[column.field]()
    return runs.annotate(**joins).annotate(**values)


def order(column: Column, down: bool, whole: bool = False) -> list[Any]:
    """By the column, what has no value last; the newest first among equals. `whole`: nothing is filtered.

    Only then does the index's own order serve: along it, a filter would be tried run by run.
    """
    if column.field == "pk" or (whole and column.field == "created"):
        sign = "-" if down else ""
        return [f"{sign}{column.field}", f"{sign}pk"][: 1 if column.field == "pk" else 2]
    names = [number(column), text(column)] if column.value and not column.numeric else [number(column)]
    keys = [F(name).desc(nulls_last=True) if down else F(name).asc(nulls_last=True) for name in names]
    return [*keys, "-pk"]
