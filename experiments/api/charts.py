"""Figures of a run's page, of a comparison, of a project."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, Literal

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Router

from experiments import charts, comparison, frontier
from experiments.charts import _seeds
from experiments.models import Dataset, Run, Series
from experiments.views.live import requested_runs

from . import access
from .curve_text import answer, mapping
from .schemas import Charts, Drawn, Message

router = Router(tags=["charts"])
Band = Literal["minmax", "std"]
Picture = Literal["pareto", "scatter", "parallel"]


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
def compare_charts(
    request: HttpRequest, runs: str, names: str = "", seeds: bool = False, band: Band = "minmax"
) -> HttpResponse:
    """The curves of several runs laid over each other.

    `seeds`: runs that differ in nothing but the seed are one curve, their mean, in a `band` from the least to
    the greatest of them or a standard deviation to each side; such charts come with their points.
    """
    subjects = subjects_of(compared(request, runs), access.listed(names))
    cards = charts.drawn(charts.View("compare", subjects))
    if seeds:
        groups = comparison.entries([subject.run for subject in subjects], seeds=True)
        cards = _seeds.aggregated(cards, groups, band)
    return packed(request, [drawn(s, "student") for s in subjects], cards)


@router.get("/compare/pictures/{chart}", response={200: Charts, 400: Message, 404: Message})
def compare_picture(
    request: HttpRequest,
    chart: Picture,
    runs: str,
    seeds: bool = False,
    x: str = "",
    y: str = "",
    logx: bool = False,
    logy: bool = False,
) -> dict[str, Any]:
    """One picture of several runs: `pareto` over the cost `x`, `scatter` of the values `x` and `y`, or
    `parallel` coordinates."""
    subjects = [charts.Subject(run, colour=run.colour) for run in compared(request, runs)]
    if chart == "pareto":
        x = frontier.known(x or "parameters")
    given = {"x": x, "y": y, "seeds": seeds, "logx": logx, "logy": logy}
    options = {key: str(value) for key, value in given.items() if value}
    card = charts.card(chart, charts.View("pictures", subjects, options=options))
    return {"runs": [], "charts": [card]}


@router.get("/pareto", response={200: Charts, 400: Message, 404: Message})
def project_charts(
    request: HttpRequest,
    project: int | None = None,
    dataset: int | None = None,
    x: str = "parameters",
    under: str = "",
) -> HttpResponse:
    """A project's finished runs (on one dataset): accuracy against parameters, bytes, flops or latency_ms; a
    line at the limit `under`."""
    where, x = access.project_of(request, project), frontier.known(x)
    data = get_object_or_404(Dataset, project=where, pk=dataset) if dataset is not None else None
    metric = "mAP" if data and data.multi_label else "top-1"
    models = frontier.models(where, data, x, frontier.limit_of(under, x), metric)
    view = charts.View("project", [], options={"x": x}, models=models)
    return packed(request, [], charts.drawn(view))


def packed(request: HttpRequest, runs: list[dict[str, Any]], cards: list[dict[str, Any]]) -> HttpResponse:
    """Figures of fifty runs or a thousand models, compressed."""
    said = [Drawn.model_validate(run).model_dump(mode="json") for run in runs]
    named = mapping({"runs": json.dumps(said), "charts": json.dumps(cards, separators=(",", ":"))})
    return answer(request, named)


def compared(request: HttpRequest, text: str) -> list[Run]:
    """The runs named with all that a comparison reads of them; 404 where one is another project's."""
    wanted = requested_runs(text)
    found = comparison.load(Run.objects.for_user(request.user), wanted)
    if len(found) < len(wanted):
        raise Http404
    return found


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
    dashes = comparison.dashes(run.colour for run in runs)
    return [
        charts.Subject(run, tuple(sorted(names[run.pk])), frozenset(varying[run.pk]), run.colour, dash)
        for run, dash in zip(runs, dashes, strict=True)
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
