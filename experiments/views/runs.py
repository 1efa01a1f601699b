"""The list of runs: filtered by a typed line, sorted, paged; all of its state stands in the address."""

from __future__ import annotations

import csv
import io
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Page, Paginator
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from experiments.models import Run
from experiments.run_filter import HELP, SORTS, BadQuery, filtered, split

from .access import current_project

PER_PAGE = 50
NEWEST = "-created"
HEAVY = ("metrics", "dataset__classes", "dataset__info", "control__results", "control__metrics")
QUICK = ("queued", "preparing", "running", "paused", "succeeded", "failed", "cancelled", "lost")


def visible(request: HttpRequest) -> QuerySet[Run]:
    """The runs of the current project, with what a row shows and nothing heavier."""
    runs = Run.objects.for_user(request.user).filter(project=current_project(request))
    related = ("dataset", "architecture", "student", "teacher", "control", "owner")
    return runs.select_related(*related).defer(*HEAVY)


@require_GET
def run_list(request: HttpRequest) -> HttpResponse:
    query, sort = request.GET.get("q", "").strip(), request.GET.get("sort") or NEWEST
    error = ""
    try:
        found = filtered(visible(request), query, sort)
    except BadQuery as bad:
        error, found = str(bad), visible(request).none()
    counts = _counts(request)
    page = _page(request, found, None if query else counts["all"])
    context = {
        "query": query,
        "sort": sort,
        "error": error,
        "help": HELP,
        "page": page,
        "rows": page.object_list,
        "columns": _columns(query, sort),
        "quick": _quick(query, sort, counts),
        "total": counts["all"],
        "moves": bool(counts["queued"] or counts["preparing"] or counts["running"] or counts["lost"]),
        "here": request.get_full_path(),
        "csv": urlencode({"q": query, "sort": sort}),
    }
    return render(request, "runs/_table.html" if request.htmx else "runs/list.html", context)  # type: ignore[attr-defined]


def _page(request: HttpRequest, found: QuerySet[Run], total: int | None) -> Page[Run]:
    """Sorts keys alone, then reads the rows of one page: a run's results are not carried through the sort."""
    paginator = Paginator(found.values_list("pk", flat=True), PER_PAGE)
    if total is not None:
        paginator.count = total  # a cached property: known already
    page: Page[Run] = paginator.get_page(request.GET.get("page"))  # type: ignore[assignment]
    keys = list(page.object_list)
    rows = visible(request).in_bulk(keys)
    page.object_list = [rows[key] for key in keys if key in rows]
    return page


def _counts(request: HttpRequest) -> dict[str, int]:
    runs = Run.objects.for_user(request.user).filter(project=current_project(request))
    quiet = Q(status__in=Run.ACTIVE, silent_since__isnull=False)
    each = {status: Count("pk", filter=Q(status=status) & ~quiet) for status in Run.Status.values}
    return runs.aggregate(all=Count("pk"), lost=Count("pk", filter=quiet), **each)


def _columns(query: str, sort: str) -> list[dict[str, str]]:
    """Heads of the table: a click sorts, a second one the other way round."""
    columns = []
    for key, column in SORTS.items():
        on, down = sort.lstrip("-") == key, sort.startswith("-")
        following = (key if down else f"-{key}") if on else f"{column.first}{key}"
        columns.append(
            {
                "key": key,
                "label": column.label,
                "num": "num" if column.first else "",
                "sorted": ("descending" if down else "ascending") if on else "",
                "href": "?" + urlencode({"q": query, "sort": following}),
            }
        )
    return columns


def _quick(query: str, sort: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    """The status filters with their counts: each replaces the status in the query line."""
    try:
        rest = [word for word in split(query) if not word.startswith("status:")]
    except BadQuery:
        rest = []
    kept = " ".join(f'"{word}"' if " " in word else word for word in rest)
    filters = [{"status": "", "label": "All", "n": counts["all"], "q": kept}]
    filters += [
        {"status": status, "label": status, "n": counts[status], "q": f"{kept} status:{status}".strip()}
        for status in QUICK
        if counts[status]
    ]
    for item in filters:
        item["href"] = "?" + urlencode({"q": item["q"], "sort": sort})
        item["on"] = item["q"] == query
    return filters


# --- CSV --------------------------------------------------------------------------------------------------
CSV_HEAD = """
    id name status purpose dataset teacher student architecture method accuracy teacher_accuracy
    control_accuracy gain gap_closed parameters bytes flops latency_ms compression_parameters
    compression_bytes compression_flops speed_up seed epochs seconds owner created reason
"""
MEASURED = ("agreement", "kl", "ece", "loss", "bytes_fp16", "bytes_int8", "peak_memory", "throughput")


@require_GET
def run_csv(request: HttpRequest) -> HttpResponse:
    """What the list shows, all pages of it."""
    try:
        runs = filtered(visible(request), request.GET.get("q", ""), request.GET.get("sort") or NEWEST)
    except BadQuery as bad:
        return HttpResponse(str(bad), status=400, content_type="text/plain; charset=utf-8")
    lines = [[*CSV_HEAD.split(), *MEASURED], *(map(plain, _cells(run)) for run in runs.iterator(500))]
    file = io.StringIO()
    csv.writer(file).writerows(lines)
    headers = {"Content-Disposition": 'attachment; filename="runs.csv"', "X-Content-Type-Options": "nosniff"}
    return HttpResponse(file.getvalue(), content_type="text/csv; charset=utf-8", headers=headers)


def _cells(run: Run) -> list[Any]:
    ratios, took, student = run.compression(), run.took, run.results.get("student") or {}
    return [
        run.pk,
        run.name,
        run.state,
        run.purpose,
        run.dataset.name,
        run.teacher.name if run.teacher else None,
        run.student.name if run.student else None,
        run.architecture_id,
        run.method_keys,
        run.accuracy,
        run.teacher_accuracy,
        run.control.accuracy if run.control else None,
        run.gain,
        run.gap_closed,
        run.parameters,
        run.bytes,
        run.flops,
        run.latency_ms,
        *(ratios.get(name) for name in ("parameters", "bytes", "flops", "latency")),
        run.training.get("seed"),
        run.training.get("epochs"),
        took.total_seconds() if took else None,
        run.owner.get_username() if run.owner else None,
        run.created.isoformat(),
        run.reason,
        *(student.get(name) for name in MEASURED),
    ]


def plain(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is made a text again."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
