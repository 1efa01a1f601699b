"""What runs now, what needs somebody, how far the project is."""

from __future__ import annotations

from django.db.models import Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from experiments import fair_queue
from experiments.models import Dataset, Project, Run, Teacher, Worker

from .runs import visible

SHOWN = 8


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """The page; for htmx the part that changes by itself."""
    if getattr(request, "project", None) is None:
        return render(request, "home/no_project.html")
    runs = visible(request)
    quiet = Q(status__in=Run.ACTIVE, silent_since__isnull=False)
    waiting = runs.filter(status=Run.Status.QUEUED)
    context = {
        "active": runs.filter(status__in=Run.ACTIVE).exclude(quiet).order_by("-started")[:SHOWN],
        "waiting": fair_queue.in_order(waiting)[:SHOWN],
        "n_waiting": waiting.count(),
        "lost": runs.filter(quiet)[:SHOWN],
        "full": runs.filter(status=Run.Status.PAUSED, hold=Run.Hold.DISK)[:SHOWN],
        "failed": runs.filter(status=Run.Status.FAILED).order_by("-finished")[:5],
        "recent": runs.filter(status=Run.Status.SUCCEEDED).order_by("-finished")[:10],
        "workers": Worker.objects.alive().count(),
        **_first_steps(request.project),  # type: ignore[attr-defined]
        **_measured(request.project, request.GET.get("dataset", "")),  # type: ignore[attr-defined]
    }
    template = "home/_live.html" if request.htmx else "home.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _measured(project: Project, asked: str) -> dict[str, object]:
    """The datasets with results, the latest used first: accuracies on different data do not compare."""
    used = Max("runs__finished", filter=Q(runs__status=Run.Status.SUCCEEDED))
    found = Dataset.objects.filter(project=project).annotate(used=used).filter(used__isnull=False)
    datasets = list(found.order_by("-used"))
    shown = next((dataset for dataset in datasets if str(dataset.pk) == asked), next(iter(datasets), None))
    return {"measured": datasets, "shown": shown}


def _first_steps(project: Project) -> dict[str, object]:
    """How far a newcomer is on the way dataset → teacher → run."""
    dataset = Dataset.objects.filter(project=project).order_by("status").last()
    teacher = Teacher.objects.filter(project=project).order_by("status").last()
    distilled = Run.objects.filter(project=project, purpose=Run.Purpose.DISTIL).exists()
    steps = [bool(dataset), bool(teacher), distilled]
    return {"dataset": dataset, "teacher": teacher, "distilled": distilled, "newcomer": not all(steps)}
