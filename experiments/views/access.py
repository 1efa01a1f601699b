"""Who may do what: the checks that views begin with."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest

from experiments.models import Project, Role


def current_project(request: HttpRequest) -> Project:
    """The project the person works in (chosen by the middleware). 404 for those who are in none."""
    project: Project | None = getattr(request, "project", None)
    if project is None:
        raise Http404("You are in no project yet. Ask an administrator to add you to one.")
    return project


def require_role(request: HttpRequest, role: Role) -> Project:
    project = current_project(request)
    if not project.may(request.user, role):
        raise PermissionDenied(f"This needs the role {role.label.lower()} in {project}.")
    return project


def require_member(request: HttpRequest) -> Project:
    return require_role(request, Role.MEMBER)


def require_maintainer(request: HttpRequest) -> Project:
    return require_role(request, Role.MAINTAINER)


def require_admin(request: HttpRequest) -> Project:
    """Site admins alone bring checkpoints from outside."""
    if not getattr(request.user, "is_superuser", False):
        raise PermissionDenied("Only a site administrator may do this.")
    return current_project(request)
