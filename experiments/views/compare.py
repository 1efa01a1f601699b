"""Runs laid over each other: curves, results, and what differs in their configuration."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from experiments import run_config
from experiments.models import Run

from .access import current_project

LIMIT = 50


@require_GET
def run_compare(request: HttpRequest) -> HttpResponse:
    """`?run=1&run=2`; also `?ids=1,2`. Runs one may not see are left out as if they did not exist."""
    given = [*request.GET.getlist("run"), *request.GET.get("ids", "").split(",")]
    keys = list(dict.fromkeys(int(key) for key in given if key.isdecimal()))
    related = ("dataset", "architecture", "student", "teacher", "control", "owner")
    visible = Run.objects.for_user(request.user).select_related(*related)
    found = visible.prefetch_related("beside__teacher").in_bulk(keys[:LIMIT])
    runs = [found[key] for key in keys if key in found]
    rows = run_config.table(runs)
    context = {
        "runs": runs,
        "colours": [(index, run) for index, run in enumerate(runs)],
        "ids": ",".join(str(run.pk) for run in runs),
        "too_many": len(keys) > LIMIT,
        "limit": LIMIT,
        "rows": rows,
        "changed": [row for row in rows if row.changed],
        "same": [row for row in rows if not row.changed],
        "recent": _recent(request) if not runs else [],
    }
    return render(request, "runs/compare.html", context)


def _recent(request: HttpRequest) -> list[Run]:
    """What one may want to compare, where nothing is chosen yet."""
    runs = Run.objects.for_user(request.user).filter(project=current_project(request))
    return list(runs.select_related("dataset", "architecture", "student", "teacher")[:30])
