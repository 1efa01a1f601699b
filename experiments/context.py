"""What every page's template can see."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from experiments.models import Project, Role


def workplace(request: HttpRequest) -> dict[str, Any]:
    """The current project, the others, and what the person may do here."""
    project: Project | None = getattr(request, "project", None)
    if project is None:
        return {"project": None, "projects": [], "may_start": False, "may_manage": False}
    held = project.roles(request.user)
    return {
        "project": project,
        "projects": getattr(request, "projects", []),
        "may_start": Role.MEMBER in held,
        "may_manage": Role.MAINTAINER in held,
    }
