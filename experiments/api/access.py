"""Whose rows a request may touch, and lists in a query string."""

from __future__ import annotations

from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from ninja.errors import HttpError

from experiments.models import Project, Role, Run
from experiments.views.live import requested_runs

MAX_NAMES = 200


def run_of(request: HttpRequest, run_id: int) -> Run:
    related = ("dataset", "architecture", "teacher", "student", "control", "owner", "experiment", "project")
    return get_object_or_404(Run.objects.for_user(request.user).select_related(*related), pk=run_id)


def runs_of(request: HttpRequest, text: str) -> list[Run]:
    """The runs named, in that order; 404 where one of them is another project's."""
    wanted = requested_runs(text)
    visible = Run.objects.for_user(request.user).select_related("teacher", "dataset", "control")
    found = visible.in_bulk(wanted)
    if len(found) < len(wanted):
        raise Http404
    return [found[pk] for pk in wanted]


def project_of(request: HttpRequest, project_id: int | None) -> Project:
    """The project named, else the one the person works in."""
    visible = Project.objects.for_user(request.user)
    current: Project | None = getattr(request, "project", None)
    if project_id is None and current is not None:
        return current
    return get_object_or_404(visible, pk=project_id)


def require_member(request: HttpRequest, run: Run) -> None:
    if not run.project.may(request.user, Role.MEMBER):
        raise HttpError(403, f"This needs the role member in {run.project}.")


def listed(text: str) -> list[str]:
    """`a,b,c`, each once."""
    found = list(dict.fromkeys(part for part in text.split(",") if part))
    if len(found) > MAX_NAMES:
        raise ValueError(f"names: {len(found)} series asked for; name at most {MAX_NAMES}.")
    return found
