"""Runs laid over each other: curves, results, pictures, and what differs in their configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_GET

from experiments import comparison, comparison_axes, frontier, run_config
from experiments.comparison import Entry
from experiments.models import Run

from .access import current_project

LIMIT = 50
RECENT = 30


@dataclass(frozen=True)
class State:
    """All that the page's address says besides the runs. The page's scripts write the same names."""

    seeds: bool = False
    band: str = "minmax"
    everything: bool = False
    cost: str = "parameters"
    x: str = "parameters"
    y: str = "accuracy"
    logx: bool = False
    logy: bool = False
    hidden: frozenset[int] = frozenset()

    @classmethod
    def of(cls, given: QueryDict) -> Self:
        """What is not understood is as if it were not there: addresses are typed and pasted."""
        cost = given.get("cost", "")
        return cls(
            seeds=given.get("seeds") == "1",
            band="std" if given.get("band") == "std" else "minmax",
            everything=given.get("all") == "1",
            cost=cost if cost in frontier.COSTS else "parameters",
            x=given.get("x", "parameters"),
            y=given.get("y", "accuracy"),
            logx=given.get("logx") == "1",
            logy=given.get("logy") == "1",
            hidden=frozenset(numbers(given.get("hide", ""))),
        )


@require_GET
def run_compare(request: HttpRequest) -> HttpResponse:
    """`?run=1&run=2`; also `?ids=1,2`. Runs one may not see are left out as if they did not exist."""
    given = [*request.GET.getlist("run"), request.GET.get("ids", "")]
    keys = list(dict.fromkeys(key for text in given for key in numbers(text)))
    runs = comparison.load(Run.objects.for_user(request.user), keys[:LIMIT])
    if not runs:
        return render(request, "runs/compare.html", {"recent": _recent(request)})
    state = State.of(request.GET)
    found = comparison.entries(runs, state.seeds)
    link = Links(request.GET, runs)
    context = {
        "runs": runs,
        "ids": ",".join(str(run.pk) for run in runs),
        "too_many": len(keys) > LIMIT,
        "limit": LIMIT,
        "state": state,
        "repeats": state.seeds or comparison.repeats(found),
        **_results(found),
        "listed": [(entry, comparison.accuracy(entry), link.without(entry.run)) for entry in found],
        "switched": link.switched(),
        **_config(found),
        **_pictures(found, state),
    }
    return render(request, "runs/compare.html", context)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.isdecimal() and len(part) < 19]


class Links:
    """The same page with something changed, for those without scripts as well."""

    def __init__(self, given: QueryDict, runs: Sequence[Run]) -> None:
        self.kept = {key: value for key, value in given.items() if key not in ("run", "ids")}
        self.ids = [str(run.pk) for run in runs]

    def to(self, ids: Sequence[str], **changed: str) -> str:
        query = {"ids": ",".join(ids)} | self.kept | changed
        return "?" + urlencode({key: value for key, value in query.items() if value}, safe=",")

    def without(self, run: Run) -> str:
        return self.to([key for key in self.ids if key != str(run.pk)])

    def switched(self) -> dict[str, str]:
        return {
            "runs": self.to(self.ids, seeds="", band=""),
            "minmax": self.to(self.ids, seeds="1", band=""),
            "std": self.to(self.ids, seeds="1", band="std"),
            "differing": self.to(self.ids, all=""),
            "everything": self.to(self.ids, all="1"),
        }


def _results(found: Sequence[Entry]) -> dict[str, Any]:
    measures, rows = comparison.table(found)
    return {"measures": measures, "rows": rows, "metrics": sorted(comparison.metrics(found))}


def _config(found: Sequence[Entry]) -> dict[str, Any]:
    """The settings; where they differ, a cell that is other than the first run's is marked."""
    rows = run_config.rows([entry.config for entry in found])
    lines = [(row.title, row.changed, _cells(row)) for row in rows]
    return {"settings": lines, "n_changed": sum(changed for _label, changed, _cells in lines)}


def _cells(row: run_config.Row) -> SafeString:
    """A row's cells, or one where all are equal. Two thousand of them take a template longer than the rest of
    the page."""
    cells = row.cells if row.changed else row.cells[:1]
    marks = (SafeString(' class="changed"') if other else "" for _text, other in cells)
    span = "" if row.changed else format_html(' colspan="{}"', len(row.values))
    pairs = ((mark or span, text) for mark, (text, _other) in zip(marks, cells, strict=True))
    return format_html_join("", "<td{}>{}</td>", pairs)


def _pictures(found: Sequence[Entry], state: State) -> dict[str, Any]:
    offered = comparison_axes.axes(found)
    return {
        "axes": list(offered.values()),
        "axis_x": state.x if state.x in offered else "parameters",
        "axis_y": state.y if state.y in offered else "accuracy",
        "costs": frontier.COSTS,
    }


def _recent(request: HttpRequest) -> list[Run]:
    """What one may want to compare, where nothing is chosen yet."""
    runs = Run.objects.shown().for_user(request.user).filter(project=current_project(request))
    columns = ("name", "status", "silent_since", "method_keys", "accuracy", "created", "asked")
    return list(runs.only(*columns)[:RECENT])
