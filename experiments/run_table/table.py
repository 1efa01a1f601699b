"""One page of the runs table, as its template shows it: heads, rows or groups, and where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import Count, QuerySet, Window
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from experiments import run_filter
from experiments.models import Run
from experiments.run_filter import BadQuery, Names
from experiments.run_filter.columns import Column
from experiments.templatetags import kd

from . import cells, groups, rows, state
from .groups import Group
from .state import State

ALWAYS_SHOWN = ("status", "name")
RUNS_OF_A_GROUP = 100  # shown at once
SEED = re.compile(r"[\s·,_-]*seed\s*\d+$", re.IGNORECASE)


@dataclass
class Line:
    """A row of the table: a run, or a group with its runs when it is open."""

    html: SafeString  # of a run the row, of a group its cells
    group: Group | None = None
    href: str = ""  # opens or closes the group
    open: bool = False
    inside: list[SafeString] = field(default_factory=list)
    left_out: int = 0
    label: SafeString | str = ""  # of a group


@dataclass
class Table:
    state: State
    columns: list[Column] = field(default_factory=list)
    by: list[Column] = field(default_factory=list)
    heads: list[dict[str, Any]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    page: Page[Any] | None = None
    alike: list[Column] = field(default_factory=list)  # hidden: the same in all rows
    error: str = ""
    marked: tuple[str, str, str] | None = None  # the query, with the part the error is about in the middle


def build(runs: QuerySet[Run], asked: State, user: Any, total: int | None) -> Table:
    """`runs` are those of the project; `total` how many are at hand, where that is known."""
    names = Names(runs)
    table = Table(asked, state.columns(asked.columns, names), state.grouping(asked.group, names))
    try:
        if table.by:
            _grouped(table, runs, names, user)
        else:
            found = run_filter.filtered(runs, asked.q, asked.sort, user)
            table.page = _filtered_page(found, asked) if asked.q else _page(_keys(found), asked, total)
            _listed(table, list(table.page.object_list), user)
    except BadQuery as bad:
        table.error, place = str(bad), bad.place
        if place:
            table.marked = asked.q[: place.start], asked.q[place.start : place.end], asked.q[place.end :]
    table.heads = _heads(table)
    return table


def _page(found: Any, asked: State, total: int | None) -> Page[Any]:
    paginator = Paginator(found, asked.per)
    if total is not None:
        paginator.count = total  # a cached property: known already
    return paginator.get_page(asked.page)


def _keys(found: QuerySet[Run]) -> Any:
    return found.values_list("pk", flat=True)


def _filtered_page(found: QuerySet[Run], asked: State) -> Page[Any]:
    """To count what a filter leaves costs as much as to read it: one reading does both."""
    begin = (asked.page - 1) * asked.per
    counted = found.annotate(of_all=Window(Count("*"))).values_list("pk", "of_all")
    read = list(counted[begin : begin + asked.per])
    if not read:  # nothing at all, or a page beyond the last, in whose place the last is shown
        return _page(_keys(found), asked, 0 if asked.page == 1 else None)
    paginator = Paginator(_keys(found), asked.per)
    paginator.count = read[0][1]
    return Page([key for key, _of_all in read], asked.page, paginator)


def _listed(table: Table, keys: list[int], user: Any) -> None:
    """Keys alone were sorted; now the rows of one page are read."""
    found = rows.read(keys, table.columns, user)
    if table.state.differ and len(found) > 1:
        table.alike = [column for column in table.columns if _same(column, found)]
        table.columns = [column for column in table.columns if column not in table.alike]
    paint = cells.Painter(table.columns)
    table.lines = [Line(paint.row(row)) for row in found]


def _same(column: Column, found: Sequence[rows.Row]) -> bool:
    if column.key in ALWAYS_SHOWN or column.kind == "moment":
        return False
    first = rows.comparable(column, found[0])
    return all(rows.comparable(column, row) == first for row in found[1:])


# --- Groups -----------------------------------------------------------------------------------------------
def _grouped(table: Table, runs: QuerySet[Run], names: Names, user: Any) -> None:
    asked = table.state
    sort = run_filter.sorted_by(asked.sort, names)
    others = [column for column in table.columns if column not in table.by]
    table.columns = sorted(
        others, key=lambda column: column.key != "name"
    )  # the group's own cell comes first
    found = groups.groups(run_filter.chosen(runs, asked.q, user, [*table.by, sort], names), table.by, [sort])
    reached = run_filter.chosen(runs, asked.q, user, [*table.by, *table.columns], names)
    table.page = _page(groups.ordered(found, table.by, sort, asked.sort.startswith("-")), asked, None)
    for group in groups.summed(reached, table.by, table.columns, list(table.page.object_list)):
        table.lines.append(_line(table, group, reached, user))


def _line(table: Table, group: Group, reached: QuerySet[Run], user: Any) -> Line:
    asked, opened = table.state, group.key in table.state.open
    others = tuple(key for key in asked.open if key != group.key)
    href = asked.href(open=others if opened else (*others, group.key), page=asked.page)
    line = Line(_group_cells(table, group), group=group, href=href, open=opened)
    line.label = labels(table.by, group)
    if opened:
        newest = reached.filter(**group.where).order_by("-created", "-pk").values_list("pk", flat=True)
        found = rows.read(list(newest[:RUNS_OF_A_GROUP]), table.columns, user)
        paint = cells.Painter(table.columns)
        line.inside = [paint.row(row, "in-group") for row in found]
        line.left_out = group.n - len(found)
    return line


def label(column: Column, group: Group, value: Any) -> str:
    if column.key == "settings":
        return SEED.sub("", group.name)
    if value is None:
        return _("none")
    return str(cells.shown(column, value)) if not isinstance(value, str) else value


def _needs_name(column: Column, value: Any) -> bool:
    """`resnet8` says what it is, `4` and `none` do not."""
    return column.key != "settings" and (column.group == "parameters" or value is None)


def labels(by: Sequence[Column], group: Group) -> SafeString:
    """What the group's runs share: name and value of each."""
    pairs = zip(by, group.values, strict=True)
    parts = ((f"{c.label} " if _needs_name(c, value) else "", label(c, group, value)) for c, value in pairs)
    return format_html_join(" · ", '<span class="faint">{}</span>{}', parts)


def _group_cells(table: Table, group: Group) -> SafeString:
    parts = (
        (cells.css(column), _group_cell(column, group)) for column in table.columns if column.key != "name"
    )
    return format_html_join("", '<td class="{}">{}</td>', parts)


def _group_cell(column: Column, group: Group) -> str:
    if column.kind == "moment" and column.key == "created":
        return kd.ago(group.newest)
    if mean := group.means.get(column.key):
        return _mean(column, mean)
    same = group.alike.get(column.key)
    if column.kind == "status" and same:
        return kd.status_badge(same)
    return cells.shown(column, same) if same else ""


def _mean(column: Column, mean: groups.Mean) -> str:
    """0.93 ± 0.002, in the column's unit; of a single run the number alone."""
    middle = cells.shown(column, mean.mean)
    if not mean.deviation:  # one run, or all the same
        return middle
    kind = "points" if column.kind in ("gain", "points") else column.kind
    scatter = kd.pct(mean.deviation) if kind in ("share", "acc") else _plain(kind, mean.deviation)
    title = _("Mean ± standard deviation of %(n)s runs") % {"n": mean.n}
    return format_html('<span title="{}">{} <span class="faint">± {}</span></span>', title, middle, scatter)


def _plain(kind: str, deviation: float) -> str:
    if kind == "points":
        return f"{100 * deviation:.2f}"
    shown = cells.FORMATS.get(kind, kd.sig)
    return kd.sig(deviation, 3) if kind == "number" else str(shown(deviation))


# --- Heads ------------------------------------------------------------------------------------------------
def _heads(table: Table) -> list[dict[str, Any]]:
    """A click sorts, a second one the other way round."""
    asked = table.state
    shown = [column for column in table.columns if not (table.by and column.key == "name")]
    return [_head(asked, column) for column in shown]


def _head(asked: State, column: Column) -> dict[str, Any]:
    on, down = asked.sort.lstrip("-") == column.key, asked.sort.startswith("-")
    following = (column.key if down else f"-{column.key}") if on else f"{column.first}{column.key}"
    return {
        "key": column.key,
        "label": column.label,
        "css": cells.css(column),
        "help": column.help,
        "sorted": ("descending" if down else "ascending") if on else "",
        "href": asked.href(sort=following) if column.sortable else "",
    }
