"""The console of a run: as part of its page, as a page of its own for who has no scripts, as a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET

from experiments import console
from experiments.console import Sought
from experiments.models import Run

LEVELS = {"": _("All lines"), "warning": _("Warnings and errors"), "error": _("Errors")}


def context(run: Run, sought: Sought | None = None, before: int | None = None) -> dict[str, Any]:
    """What `runs/_console.html` shows: the newest lines that are sought."""
    wanted = sought or Sought()
    lines, older = console.newest(wanted.lines(run), before)
    rows = [
        {"n": line.n, "level": line.level, "text": line.text, "at": datetime.fromtimestamp(line.wall, tz=UTC)}
        for line in lines
    ]
    said = {"lines": rows, "older": older, "first": rows[0]["n"] if rows else -1}
    return said | {"last": rows[-1]["n"] if rows else -1, "sought": wanted, "levels": LEVELS.items()}


@require_GET
def run_console(request: HttpRequest, pk: int) -> HttpResponse:
    run = get_object_or_404(Run.objects.for_user(request.user).select_related("project"), pk=pk)
    before = request.GET.get("before", "")
    found = context(run, _sought(request), int(before) if before.isdecimal() and len(before) < 10 else None)
    return render(request, "runs/console.html", {"run": run, "console": found, "paged": bool(before)})


def _sought(request: HttpRequest) -> Sought:
    """An unknown level in an address is as good as none."""
    level = request.GET.get("level", "")
    return Sought(request.GET.get("q", "")[:200], level if level in console.LEVELS else "")


@require_GET
def run_log(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    """Every line (that is sought) as a text file."""
    run = get_object_or_404(Run.objects.for_user(request.user), pk=pk)
    headers = {
        "Content-Disposition": f'attachment; filename="run-{run.pk}.log"',
        "X-Content-Type-Options": "nosniff",
    }
    pages = _pages(run, _sought(request))
    return StreamingHttpResponse(pages, content_type="text/plain; charset=utf-8", headers=headers)


async def _pages(run: Run, sought: Sought) -> AsyncIterator[str]:
    pages = console.written(sought.lines(run))
    while (page := await sync_to_async(lambda: next(pages, None))()) is not None:
        yield page
