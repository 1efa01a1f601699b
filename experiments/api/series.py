"""Points of curves for the eye: a range of steps and a width in pixels."""

from __future__ import annotations

import json
from typing import Annotated

from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import Field

from experiments import metric_store
from experiments.models import Run, Series

from . import access
from .curve_text import answer, curve, mapping
from .schemas import ManySeries, Message, RunSeries, State

router = Router(tags=["series"])
Width = Annotated[int, Field(ge=1, le=4_000)]
Step = Annotated[int, Field(ge=0, lt=2**63)]


@router.get("/runs/{int:run_id}/series", response={200: RunSeries, 404: Message})
def read_series(
    request: HttpRequest,
    run_id: int,
    names: str = "",
    first: Step | None = None,
    last: Step | None = None,
    width: Width = 1_000,
) -> HttpResponse:
    """Curves of a run between two steps; all its series where none is named. No spike is ever left out."""
    run = access.run_of(request, run_id)
    return answer(request, curves_of([run], access.listed(names), first, last, width)[str(run.pk)])


@router.get("/compare/series", response={200: ManySeries, 400: Message, 404: Message})
def compare_series(
    request: HttpRequest,
    runs: str,
    name: str,
    first: Step | None = None,
    last: Step | None = None,
    width: Width = 1_000,
) -> HttpResponse:
    """The series `name` (or several, separated by commas) of several runs."""
    curves = curves_of(access.runs_of(request, runs), access.listed(name), first, last, width)
    return answer(request, mapping({"runs": mapping(curves)}))


def curves_of(
    runs: list[Run], names: list[str], first: int | None, last: int | None, width: int
) -> dict[str, str]:
    """RunSeries of each run, as JSON.

    The rows (and with them the live cursors) were read before the points: nothing can fall between.
    """
    found = chosen(runs, names)
    curves: dict[int, dict[str, str]] = {run.pk: {} for run in runs}
    for series, view in zip(found, metric_store.views(found, first, last, width), strict=True):
        curves[series.run_id][series.name] = curve(view)
    return {
        str(run.pk): mapping(
            {
                "cursor": json.dumps(run.live_cursor),
                "run": State.from_orm(run).model_dump_json(),
                "series": mapping(curves[run.pk]),
            }
        )
        for run in runs
    }


def chosen(runs: list[Run], names: list[str]) -> list[Series]:
    found = Series.objects.filter(run__in=runs)
    return list(found.filter(name__in=names) if names else found)
