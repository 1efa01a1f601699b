"""The runs table's questions: which runs, in which order. See `query` for the language of the line."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from experiments.models import Run

from . import sql
from .columns import BUILT_IN, Column, Names
from .conditions import Conditions, User
from .query import BadQuery, parse

__all__ = ["BadQuery", "Column", "Names", "chosen", "filtered", "sorted_by"]


def filtered(runs: QuerySet[Run], query: str, sort: str, user: User = None) -> QuerySet[Run]:
    """The runs a query line leaves, sorted by the column `sort` (`-acc`: the largest first).

    Runs in the archive or the trash are left out unless the line asks for them (`is:archived`).
    BadQuery says what is wrong with the line, and where.
    """
    names = Names(runs)
    column = sorted_by(sort, names)
    return chosen(runs, query, user, [column], names).order_by(
        *sql.order(column, sort.startswith("-"), whole=not query)
    )


def chosen(
    runs: QuerySet[Run], query: str, user: User, more: Iterable[Column] = (), names: Names | None = None
) -> QuerySet[Run]:
    """The runs a query line leaves, with the values of `more` columns within reach."""
    conditions = Conditions(names or Names(runs), user)
    condition = conditions.of(parse(query))
    columns = conditions.columns | {column.key: column for column in more}
    shelf = next(iter(conditions.shelves)) if len(conditions.shelves) == 1 else None
    within = runs.filter(shelf__in=conditions.shelves) if shelf is None else runs.filter(shelf=shelf)
    return sql.reached(within, columns.values()).filter(condition)


def sorted_by(sort: str, names: Names) -> Column:
    """BadQuery where there is no such column."""
    key = sort.lstrip("-")
    column = names.column(key)
    if column is None or not column.sortable:
        words = _("sort = “%(key)s”: there is no such column. Choose one of %(columns)s.")
        known = ", ".join(key for key, column in BUILT_IN.items() if column.sortable)
        raise BadQuery(words % {"key": key, "columns": known})
    return column
