"""The list of runs: filtered by a typed line, sorted, grouped, paged; all its state stands in the address."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from experiments import run_filter
from experiments.models import Run, SavedView
from experiments.run_filter import BadQuery, Names, complete, query
from experiments.run_table import chooser, export, state, table

from .access import current_project

HEAVY = ("metrics", "dataset__classes", "dataset__info", "control__results", "control__metrics")
QUICK = ("queued", "preparing", "running", "paused", "succeeded", "failed", "cancelled", "lost")
MOST_PICKED = 500  # as many as are changed at once
KEPT = ("sort", "columns", "group", "differ", "per")  # of the address, when the filter changes


def visible(request: HttpRequest) -> QuerySet[Run]:
    """The runs of the current project, with what pages about a few runs show and nothing heavier."""
    related = ("dataset", "architecture", "student", "teacher", "control", "owner")
    runs = Run.objects.for_user(request.user).filter(project=current_project(request))
    return runs.select_related(*related).defer(*HEAVY)


def _runs(request: HttpRequest) -> QuerySet[Run]:
    """Bare. The current project is one of those that the person may see."""
    return Run.objects.filter(project=current_project(request))


@require_GET
def run_list(request: HttpRequest) -> HttpResponse:
    if not request.GET and (first := _own_first(request)):
        return redirect(f"{reverse('run_list')}?{first.query}")
    asked = state.of(request.GET)
    counts = _counts(request)
    shown = table.build(_runs(request), asked, request.user, counts["all"])
    context = {
        "table": shown,
        "state": asked,
        "page": shown.page,
        "quick": _quick(asked, counts),
        "total": counts["all"],
        "moves": any(counts[status] for status in ("queued", "preparing", "running", "lost")),
        "here": request.get_full_path(),
    }
    if request.htmx:  # type: ignore[attr-defined]
        return _part(request, context)
    return render(request, "runs/list.html", context | _around(request, asked))


def _part(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """What depends on the query. Who asks again for the same gets nothing, and nothing is drawn anew."""
    response = render(request, "runs/_table.html", context)
    seen = hashlib.md5(response.content, usedforsecurity=False).hexdigest()
    if request.headers.get("X-Seen") == seen:
        return HttpResponse(status=204)
    response.headers["X-Seen"] = seen
    return response


def _around(request: HttpRequest, asked: state.State) -> dict[str, Any]:
    project = current_project(request)
    views = SavedView.objects.filter(project=project).filter(Q(owner=request.user.pk) | Q(shared=True))
    listed = list(views.select_related("owner"))
    return {
        "kept": [(name, dict(parse_qsl(asked.query())).get(name, "")) for name in KEPT],
        "more_acts": _more_acts(),
        "views": listed,
        "current_view": next((view for view in listed if view.query == asked.view), None),
        "tags": project.tags.values_list("name", flat=True),
    }


def _more_acts() -> list[tuple[str, str, str]]:
    return [
        ("pause", _("Pause"), "pause"),
        ("resume", _("Resume"), "resume"),
        ("stop", _("Stop"), "stop"),
        ("unstar", _("Take the star off"), "star"),
        ("unarchive", _("Out of the archive"), "archive"),
        ("trash", _("To the trash"), "trash"),
        ("restore", _("Out of the trash"), "undo"),
    ]


def _own_first(request: HttpRequest) -> SavedView | None:
    """The view the person begins with. Its empty query is the plain table, which is no other address."""
    mine = SavedView.objects.filter(project=current_project(request), owner=request.user.pk or 0, first=True)
    return mine.exclude(query="").first()


def _counts(request: HttpRequest) -> dict[str, int]:
    """Of the runs at hand, by state."""
    runs = _runs(request).filter(shelf=Run.Shelf.NONE).order_by()
    counts = dict.fromkeys((*Run.Status.values, "lost"), 0)
    # A moment is counted where there is one: both numbers come from one walk along an index.
    for status, n, silent in runs.values_list("status").annotate(n=Count("*"), silent=Count("silent_since")):
        lost = silent if status in Run.ACTIVE else 0
        counts[status] += n - lost
        counts["lost"] += lost
    return counts | {"all": sum(counts.values())}


def _quick(asked: state.State, counts: dict[str, int]) -> list[dict[str, Any]]:
    """The status filters with their counts: each replaces the status in the query line."""
    kept = query.without(asked.q, "status")
    filters = [{"status": "", "n": counts["all"], "q": kept}]
    filters += [
        {"status": status, "n": counts[status], "q": f"{kept} status:{status}".strip()}
        for status in QUICK
        if counts[status]
    ]
    for item in filters:
        item |= {"href": asked.href(q=item["q"]), "on": item["q"] == asked.q}
    return filters


# --- What helps while one types and chooses ---------------------------------------------------------------
@require_GET
def run_complete(request: HttpRequest) -> JsonResponse:
    """{start, end, options}: what may stand at the cursor `at` of the line `q`."""
    text, at = request.GET.get("q", "")[: query.LONGEST], request.GET.get("at", "")
    place = int(at) if at.isdecimal() and len(at) < 5 else len(text)
    return JsonResponse(complete.complete(_runs(request), text, place))


@require_GET
def run_columns(request: HttpRequest) -> HttpResponse:
    """The dialog in which columns are chosen and put in order, and runs are grouped."""
    asked = state.of(request.GET)
    return render(
        request, "runs/_columns.html", {"chooser": chooser.of(_runs(request), asked), "state": asked}
    )


@require_GET
def run_keys(request: HttpRequest) -> JsonResponse:
    """{keys, n}: the runs a query leaves, for choosing them all; at most as many as are changed at once."""
    asked = state.of(request.GET)
    try:
        found = run_filter.filtered(_runs(request), asked.q, asked.sort, request.user)
    except BadQuery as bad:
        return JsonResponse({"detail": str(bad)}, status=400)
    keys = list(found.values_list("pk", flat=True)[: MOST_PICKED + 1])
    n = len(keys) if len(keys) <= MOST_PICKED else found.count()
    return JsonResponse({"keys": keys[:MOST_PICKED], "n": n})


@require_GET
def run_csv(request: HttpRequest) -> HttpResponse:
    """What the table shows, all pages of it."""
    asked, runs = state.of(request.GET), _runs(request)
    names = Names(runs)
    try:
        lines = export.lines(runs, asked, names, request.user)
    except BadQuery as bad:
        return HttpResponse(str(bad), status=400, content_type="text/plain; charset=utf-8")
    headers = {"Content-Disposition": 'attachment; filename="runs.csv"', "X-Content-Type-Options": "nosniff"}
    return HttpResponse("".join(_written(lines)), content_type="text/csv; charset=utf-8", headers=headers)


class _Echo:
    """csv.writer hands back what it would have written."""

    def write(self, text: str) -> str:
        return text


def _written(lines: Iterator[list[Any]]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    for line in lines:
        yield writer.writerow([plain(value) for value in line])


def plain(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is made a text again."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
