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


def require_role(request: HttpRequest, role: Role, project: Project | None = None) -> Project:
    """The project (of a row, else the current one), if the person holds at least `role` in it."""
    project = project or current_project(request)
    if not project.may(request.user, role):
        raise PermissionDenied(f"This needs the role {role.label.lower()} in {project}.")
    return project


def require_member(request: HttpRequest, project: Project | None = None) -> Project:
    return require_role(request, Role.MEMBER, project)


def require_maintainer(request: HttpRequest, project: Project | None = None) -> Project:
    return require_role(request, Role.MAINTAINER, project)


def allowed(request: HttpRequest, project: Project) -> dict[str, bool]:
    """What the page of a row offers: by the role in the row's project, which may not be the current one."""
    return {
        "may_start": project.may(request.user, Role.MEMBER),
        "may_manage": project.may(request.user, Role.MAINTAINER),
    }


def require_admin(request: HttpRequest) -> Project:
    """Site admins alone bring checkpoints from outside."""
    if not getattr(request.user, "is_superuser", False):
        raise PermissionDenied("Only a site administrator may do this.")
    return current_project(request)
