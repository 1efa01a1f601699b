"""Figures of a run's page, of a comparison, of a project."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.http import HttpRequest
from ninja import Router

from experiments import charts
from experiments.charts import _parts, pareto
from experiments.models import Run, Series

from . import access
from .schemas import Charts, Message

router = Router(tags=["charts"])
MAX_POINTS = 5_000


@router.get("/runs/{int:run_id}/charts", response={200: Charts, 404: Message})
def run_charts(request: HttpRequest, run_id: int, names: str = "") -> dict[str, Any]:
    """The charts of a run, its control's curves behind it.

    `names` (`<run>:<series>,…`) adds series that were seen live and are not in the database yet.
    """
    run = access.run_of(request, run_id)
    both = [run, run.control] if run.control else [run]
    subjects = subjects_of(both, access.listed(names))
    view = charts.View("run", subjects[:1], control=subjects[1] if run.control else None)
    roles = ["student", "control"]
    return {
        "runs": [drawn(s, role) for s, role in zip(subjects, roles, strict=False)],
        "charts": charts.drawn(view),
    }


@router.get("/compare/charts", response={200: Charts, 400: Message, 404: Message})
def compare_charts(request: HttpRequest, runs: str, names: str = "", x: str = "parameters") -> dict[str, Any]:
    subjects = subjects_of(access.runs_of(request, runs), access.listed(names))
    view = charts.View("compare", subjects, options={"x": cost(x)})
    return {"runs": [drawn(s, "student") for s in subjects], "charts": charts.drawn(view)}


@router.get("/pareto", response={200: Charts, 400: Message, 404: Message})
def project_charts(
    request: HttpRequest, project: int | None = None, dataset: int | None = None, x: str = "parameters"
) -> dict[str, Any]:
    """A project's finished runs (on one dataset): accuracy against parameters, bytes, flops or latency_ms."""
    where = access.project_of(request, project)
    runs = Run.objects.filter(project=where, status=Run.Status.SUCCEEDED, accuracy__isnull=False)
    if dataset is not None:
        runs = runs.filter(dataset=dataset)
    light = runs.select_related("teacher", "dataset").defer("results", "metrics", "training", "objective")
    subjects = [charts.Subject(run) for run in light[:MAX_POINTS]]
    return {"runs": [], "charts": charts.drawn(charts.View("project", subjects, options={"x": cost(x)}))}


def cost(x: str) -> str:
    if x not in pareto.COSTS:
        raise ValueError(f"x = {x[:80]!r}: there is no such axis. Choose {', '.join(pareto.COSTS)}.")
    return x


def subjects_of(runs: list[Run], seen: list[str]) -> list[charts.Subject]:
    names: dict[int, set[str]] = defaultdict(set)
    varying: dict[int, set[str]] = defaultdict(set)
    for run_id, name, low, high in Series.objects.filter(run__in=runs).values_list(
        "run", "name", "min", "max"
    ):
        names[run_id].add(name)
        if low != high:
            varying[run_id].add(name)
    for item in seen:
        run_text, _, name = item.partition(":")
        if run_text.isdecimal() and name:
            names[int(run_text)].add(name)
    return [
        charts.Subject(run, tuple(sorted(names[run.pk])), frozenset(varying[run.pk]), _parts.colour(place))
        for place, run in enumerate(runs)
    ]


def drawn(subject: charts.Subject, role: str) -> dict[str, Any]:
    run = subject.run
    epochs = run.epochs
    return {
        "id": run.pk,
        "name": run.name,
        "role": role,
        "colour": "control" if role == "control" else subject.colour,
        "cursor": run.live_cursor,
        "state": run,
        "epoch_steps": run.epoch_steps or (run.total_steps / epochs if epochs and run.total_steps else None),
    }
