"""The first page: how near is the student, how small is it, what runs, what needs somebody?"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from experiments import attention, fair_queue, frontier, sparkline
from experiments.models import Dataset, Project, Run, RunEvent, Teacher, Worker
from experiments.templatetags.kd import NBSP

from .access import current_project

SHOWN = 8
NEXT = 4  # of those that wait
RECENT = 10
EVENTS = 8
RANKED = 8
LINE = (
    "name", "status", "asked", "silent_since", "phase", "step", "total_steps", "epoch", "epoch_steps",
    "training", "accuracy", "eta", "queued", "started", "dataset__status", "teacher__status",
)  # fmt: skip
# Of a row with results: what it does not show. The student's and the teacher's measurements it does.
HEAVY = (
    "metrics", "notes", "objective", "training", "control__results", "control__metrics", "control__notes",
    "control__training", "control__objective", "dataset__classes",
)  # fmt: skip


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """The page; for htmx the part that is renewed, or the best students under another limit."""
    if getattr(request, "project", None) is None:
        return render(request, "home/no_project.html")
    htmx = request.htmx  # type: ignore[attr-defined]
    if htmx and htmx.target == "frontier":
        return render(request, "home/_frontier.html", _frontier(request))
    if htmx:
        return render(request, "home/_renewed.html", _moving(request))
    context = _moving(request) | _first_steps(current_project(request)) | _frontier(request)
    return render(request, "home.html", context)


def visible(request: HttpRequest) -> QuerySet[Run]:
    """The runs of the project that are at hand."""
    return Run.objects.shown().for_user(request.user).filter(project=current_project(request))


# --- What changes by itself -------------------------------------------------------------------------------
def _moving(request: HttpRequest) -> dict[str, Any]:
    runs = visible(request)
    lines = runs.select_related("dataset", "teacher").only(*LINE)
    active = list(lines.filter(status__in=Run.ACTIVE).exclude(attention.quiet()).order_by("-started")[:SHOWN])
    sparks = sparkline.of_runs(active)
    waiting = lines.filter(status=Run.Status.QUEUED)
    n_waiting = waiting.count()
    items = attention.items(current_project(request), runs)
    return {
        "active": [(run, sparks.get(run.pk)) for run in active],
        "waiting": fair_queue.in_order(waiting)[:NEXT] if n_waiting else [],
        "n_waiting": n_waiting,
        "attention": items,
        "more_lost": max(0, runs.filter(attention.quiet()).count() - attention.SHOWN),
        "more_failed": max(0, attention.failures(runs).count() - attention.SHOWN),
        "workers": Worker.objects.alive().count(),
        "recent": _rows(runs.filter(status=Run.Status.SUCCEEDED).order_by("-finished", "-pk"), RECENT),
        "events": _events(runs),
    }


def _events(runs: QuerySet[Run]) -> list[RunEvent]:
    """Who did what, the newest first."""
    mine = RunEvent.objects.filter(run__in=runs.order_by()).select_related("run")
    return list(mine.only("at", "text", "status", "actor", "run__name").order_by("-pk")[:EVENTS])


def _rows(runs: QuerySet[Run], most: int) -> list[Run]:
    """The first of them with what a row of results shows. Keys are sought first: a run's JSON is not carried
    through the sort."""
    return _in_order(list(runs.values_list("pk", flat=True)[:most]))


def _in_order(keys: list[int]) -> list[Run]:
    related = ("dataset", "teacher", "control")
    found = Run.objects.select_related(*related).defer(*HEAVY).in_bulk(keys)
    return [found[key] for key in keys if key in found]


# --- How near, how small ----------------------------------------------------------------------------------
def _frontier(request: HttpRequest) -> dict[str, Any]:
    """The best students below a limit, on one dataset: accuracies on different data do not compare."""
    project = current_project(request)
    datasets = _measured(project)
    dataset = _chosen(project, datasets, request.GET.get("dataset", ""))
    asked = request.GET.get("cost", "")
    cost = asked if asked in frontier.COSTS else "parameters"
    under, limit, error = request.GET.get("under", "").strip()[:60], None, ""
    try:
        limit = frontier.limit_of(under, cost)
    except ValueError as bad:
        error = str(bad)
    link = Links(dataset, cost, under)
    overall = frontier.best(project, dataset, cost, None, RANKED)
    keys = frontier.best(project, dataset, cost, limit, RANKED) if limit is not None else overall
    rows = {run.pk: run for run in _in_order(list(dict.fromkeys([*keys, *overall[:1]])))}
    return {
        "measured": [(one, link.to(dataset=one.pk, under="")) for one in datasets],
        "shown": dataset,
        "nearest": rows.get(overall[0]) if overall else None,
        "ranking": [(rows[key], _price(rows[key], cost)) for key in keys if key in rows],
        "ranked_ids": ",".join(str(key) for key in keys),
        "cost": frontier.COSTS[cost],
        "cost_key": cost,
        "costs": [(key, one.label, link.to(cost=key, under="")) for key, one in frontier.COSTS.items()],
        "under": under,
        "limit": limit,
        "limit_text": frontier.COSTS[cost].show(limit),
        "limit_error": error,
        "chips": _chips(project, dataset, cost, limit, link),
        "unlimited": link.to(under=""),
    }


def _price(run: Run, cost: str) -> str:
    return frontier.COSTS[cost].show(getattr(run, frontier.COSTS[cost].column))


def _chips(
    project: Project, dataset: Dataset | None, cost: str, limit: float | None, link: Links
) -> list[dict[str, Any]]:
    """Limits to click, from the students there are."""
    found = []
    for value in frontier.quartiles(project, dataset, cost):
        text = frontier.COSTS[cost].show(value)
        found.append({"text": text, "on": value == limit, "href": link.to(under=text.replace(NBSP, ""))})
    return found


class Links:
    """The page with another dataset, cost or limit."""

    def __init__(self, dataset: Dataset | None, cost: str, under: str) -> None:
        self.now = {"dataset": dataset.pk if dataset else "", "cost": cost, "under": under}

    def to(self, **changed: object) -> str:
        query = {key: value for key, value in (self.now | changed).items() if value}
        return "?" + urlencode(query)


def _measured(project: Project) -> list[Dataset]:
    """Those with results."""
    done = Run.objects.shown().filter(dataset=OuterRef("pk"), status=Run.Status.SUCCEEDED)
    return list(Dataset.objects.filter(Exists(done), project=project).defer("classes"))


def _chosen(project: Project, datasets: list[Dataset], asked: str) -> Dataset | None:
    """The one asked for, else the one used last."""
    by_key = {str(dataset.pk): dataset for dataset in datasets}
    if asked in by_key or not datasets:
        return by_key.get(asked)
    ended = frontier.finished(project, None).order_by("-finished").values_list("dataset", flat=True)
    return by_key.get(str(ended.first()), datasets[0])


def _first_steps(project: Project) -> dict[str, object]:
    """How far a newcomer is on the way dataset → teacher → run."""
    dataset = Dataset.objects.filter(project=project).order_by("status").last()
    teacher = Teacher.objects.filter(project=project).order_by("status").last()
    distilled = Run.objects.filter(project=project, purpose=Run.Purpose.DISTIL).exists()
    steps = [bool(dataset), bool(teacher), distilled]
    return {"dataset": dataset, "teacher": teacher, "distilled": distilled, "newcomer": not all(steps)}
