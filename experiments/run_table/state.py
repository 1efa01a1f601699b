"""The whole state of the runs table. It stands in the address, and a saved view is nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from experiments.run_filter.columns import DEFAULT, Column, Names

NEWEST = "-created"
SIZES = (50, 100, 200)
MOST_COLUMNS = 60
UNGROUPED = {"progress", "moment", "tags", "name"}  # kinds that make no groups


@dataclass(frozen=True)
class State:
    q: str = ""
    sort: str = NEWEST
    columns: tuple[str, ...] = DEFAULT
    group: tuple[str, ...] = ()
    open: tuple[str, ...] = ()  # groups whose runs are shown
    differ: bool = False  # only columns that differ
    per: int = SIZES[0]
    page: int = 1

    def query(self, **changes: Any) -> str:
        """As a query string, without what goes without saying. A change begins at the first page again."""
        state = replace(self, **({"page": 1} | changes))
        plain = State()
        pairs: list[tuple[str, Any]] = []
        for name in ("q", "sort", "columns", "group", "open", "differ", "per", "page"):
            value = getattr(state, name)
            if value != getattr(plain, name):
                value = ",".join(value) if isinstance(value, tuple) else value
                pairs.append((name, int(value) if isinstance(value, bool) else value))
        return urlencode(pairs, safe=",:/")

    def href(self, **changes: Any) -> str:
        return "?" + self.query(**changes)

    @property
    def ungrouped(self) -> str:
        return self.href(group=(), open=())

    @property
    def sizes(self) -> list[tuple[int, str]]:
        return [(size, self.href(per=size)) for size in SIZES]

    @property
    def view(self) -> str:
        """What a saved view keeps: not where one was reading."""
        return self.query(open=())


def of(data: QueryDict) -> State:
    """Whatever somebody wrote into the address, it is a state."""
    page, per = data.get("page", ""), data.get("per", "")
    return State(
        q=data.get("q", "").strip(),
        sort=data.get("sort") or NEWEST,
        columns=_names(data.get("columns", ""), MOST_COLUMNS) or DEFAULT,
        group=_names(data.get("group", ""), 4),
        open=_names(data.get("open", ""), 50),
        differ=data.get("differ") == "1",
        per=int(per) if per.isdecimal() and int(per) in SIZES else SIZES[0],
        page=max(1, int(page)) if page.isdecimal() and len(page) < 9 else 1,
    )


def _names(text: str, most: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))[:most]


def columns(keys: Iterable[str], names: Names) -> list[Column]:
    """Those there are; the name is always among them."""
    found = [column for key in keys if (column := names.column(key))]
    found = list({column.key: column for column in found}.values())
    if not any(column.key == "name" for column in found):
        found.insert(0, names.column("name"))  # type: ignore[arg-type]
    return found


def grouping(keys: Iterable[str], names: Names) -> list[Column]:
    return [column for column in columns(keys, names) if column.kind not in UNGROUPED] if keys else []
