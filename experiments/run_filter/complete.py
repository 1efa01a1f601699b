"""What could come next in the query line: keys, and the values the project's runs have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from django.db.models import Count, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _l

from experiments.models import Method, Run, RunValue, Series, Tag

from .columns import BUILT_IN, Column, Names, metric, of_value, parameters
from .conditions import IS, KEYS, STATES
from .query import SIGNS

MOST = 12  # offered at once
RECENT = 200  # runs whose keys are offered: of ten thousand, reading all would take too long
WORD = re.compile(r"""(?:[^\s"'(]|(?<=[^\s:=<>,])["']|["'][^"']*["']?|(?<=\S)\()*$""")
TEXT_KEYS: dict[str, Any] = {
    "is": _l("starred, mine, archived, trashed …"),
    "status": _l("running, failed, lost, active …"),
    "method": _l("kd, dkd, fitnet …"),
    "student": _l("part of its name"),
    "teacher": _l("part of its name"),
    "dataset": _l("part of its name"),
    "purpose": _l("distil, control or teacher"),
    "owner": _l("who started it"),
    "experiment": _l("part of its name"),
    "name": _l("part of its name"),
    "tag": _l("a tag it bears"),
}
DAYS = ("today", "yesterday", "7d", "30d")


@dataclass(frozen=True)
class Option:
    insert: str
    label: str
    note: str = ""


def complete(runs: QuerySet[Run], text: str, at: int) -> dict[str, Any]:
    """{start, end, options}: what may stand in the place of text[start:end], for a cursor at `at`."""
    at = max(0, min(at, len(text)))
    found = WORD.search(text[:at])
    start = found.start() if found else at
    while text[start : start + 1] == "-" and start < at:
        start += 1
    end = at + len(re.match(r"[^\s)]*", text[at:]).group())  # type: ignore[union-attr]
    word = text[start:at]
    signs = [(place, -len(sign), sign) for sign in SIGNS if (place := word.find(sign)) > 0]
    if not signs:
        options = _keys(runs, word)
        return {"start": start, "end": end, "options": [asdict(option) for option in options]}
    place, _size, sign = min(signs)
    value_at = max(place + len(sign), word.rfind(",") + 1)
    options = _values(runs, word[:place], word[value_at:].strip("\"'"))
    return {"start": start + value_at, "end": end, "options": [asdict(option) for option in options]}


def _keys(runs: QuerySet[Run], begun: str) -> list[Option]:
    """Names that begin with it first, then those that hold it."""
    small, seen = begun.lower(), set[str]()
    early: list[Option] = []
    late: list[Option] = []
    for option in _all_keys(runs, small):
        if option.label in seen or small not in option.label.lower():
            continue
        seen.add(option.label)
        (early if option.label.lower().startswith(small) else late).append(option)
    return [*early, *late][:MOST]


def _all_keys(runs: QuerySet[Run], begun: str) -> Iterator[Option]:
    for key in KEYS:
        if key in TEXT_KEYS:
            yield Option(f"{key}:", key, str(TEXT_KEYS[key]))
        elif BUILT_IN[key].sortable:
            column = BUILT_IN[key]
            sign = ":" if column.kind == "moment" or not column.numeric else ">"
            yield Option(f"{key}{sign}", key, str(column.help or column.label))
    yield Option("lr>", "lr", _("Learning rate"))
    for key, column in parameters().items():
        yield Option(f"{key}{'>' if column.numeric else ':'}", key, str(column.label))
    if not begun:
        return
    for column in of_these_runs(runs):
        note = _("metric") if column.series else _("parameter")
        yield Option(f"{column.key}{'>' if column.numeric else ':'}", column.key, note)


def of_these_runs(runs: QuerySet[Run]) -> list[Column]:
    """Parameters of methods, and metrics, of the newest runs."""
    newest = list(runs.order_by("-created", "-pk").values_list("pk", flat=True)[:RECENT])
    listed = {column.value for column in (*BUILT_IN.values(), *parameters().values())}
    keys = RunValue.objects.filter(run__in=newest).values_list("key", flat=True).distinct()
    found = [of_value(key) for key in sorted(set(keys) - listed)]
    series = Series.objects.filter(run__in=newest).order_by("name").values_list("name", flat=True).distinct()
    return [
        *found,
        *(metric(name, statistic) for name in series for statistic in ("last", "best", "min", "max")),
    ]


def _values(runs: QuerySet[Run], key: str, begun: str) -> list[Option]:
    small = begun.lower()
    key = {"tags": "tag", "user": "owner"}.get(key.lower(), key)
    fitting = [(value, note) for value, note in _known_values(runs, key) if small in value.lower()]
    fitting.sort(key=lambda found: not found[0].lower().startswith(small))  # stable: else as they came
    return [Option(_quoted(value), value, note) for value, note in fitting[:MOST]]


def _quoted(value: str) -> str:
    return f'"{value}"' if re.search(r"[\s,()\"']", value) else value


def _known_values(runs: QuerySet[Run], key: str) -> Iterable[tuple[str, str]]:
    match key.lower():
        case "is":
            return [(value, "") for value in (*IS, *STATES)]
        case "status":
            return [(value, "") for value in STATES]
        case "purpose":
            return [(value, "") for value in Run.Purpose.values]
        case "method":
            return Method.objects.order_by("key").values_list("key", "title")
        case "tag":
            tags = Tag.objects.filter(runs__in=runs.order_by()).annotate(n=Count("pk")).order_by("-n")
            return [(tag.name, str(tag.n)) for tag in tags]
        case "student" | "teacher" | "dataset" | "experiment" | "owner" as name:
            return _names(runs, name)
    column = Names(runs).column(key)
    if column is None:
        return []
    if column.kind == "moment":
        return [(day, "") for day in DAYS]
    return _of_values(runs, column.value) if column.value else []


def _names(runs: QuerySet[Run], relation: str) -> Iterable[tuple[str, str]]:
    """Of the rows that these runs have, the most used first."""
    column = f"{relation}__username" if relation == "owner" else f"{relation}__name"
    found = runs.filter(**{f"{relation}__isnull": False}).order_by()
    counted = found.values_list(column).annotate(n=Count("pk")).order_by("-n")
    return [(name, str(n)) for name, n in counted]


def _of_values(runs: QuerySet[Run], key: str) -> list[tuple[str, str]]:
    """Those that occur, with how often, the most frequent first."""
    found = RunValue.objects.filter(key=key, run__in=runs.order_by().values("pk"))
    counted = found.values_list("number", "text").annotate(n=Count("pk")).order_by("-n")[:200]
    return [(text if number is None else f"{number:.6g}", str(n)) for number, text, n in counted]
