"""Probes without a person; the project that a person's request works in."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from experiments.models import Project

SESSION_KEY = "project"
PROBES = ("/healthz", "/health.json")


class ProbeMiddleware:
    """Before any other that looks at cookies: a probe is nobody. It has to be answered without a database,
    and a browser that asks with its session would wait for one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path in PROBES:
            request.COOKIES.clear()
        return self.get_response(request)


class ProjectMiddleware:
    """Sets `request.projects`, those the person may see, and `request.project`: the one chosen last, else the
    first, or None. It says where new things go and what the lists show; rows are guarded by `for_user`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        projects = list(Project.objects.for_user(request.user)) if request.user.is_authenticated else []
        chosen = request.session.get(SESSION_KEY) if projects else None
        current = next((project for project in projects if project.pk == chosen), next(iter(projects), None))
        request.projects = projects  # type: ignore[attr-defined]
        request.project = current  # type: ignore[attr-defined]
        return self.get_response(request)
