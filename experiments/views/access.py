"""Who may do what: the checks that views begin with."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, ProtectedError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from experiments.models import Project, Role, Teacher

DELETED = {
    "dataset": gettext_lazy("Dataset “%(name)s” is deleted."),
    "student": gettext_lazy("Student “%(name)s” is deleted."),
    "teacher": gettext_lazy("Teacher “%(name)s” is deleted."),
}


def current_project(request: HttpRequest) -> Project:
    """The project the person works in (chosen by the middleware). 404 for those who are in none."""
    project: Project | None = getattr(request, "project", None)
    if project is None:
        raise Http404(_("You are in no project yet. Ask an administrator to add you to one."))
    return project


def require_role(request: HttpRequest, role: Role, project: Project | None = None) -> Project:
    """The project (of a row, else the current one), if the person holds at least `role` in it."""
    project = project or current_project(request)
    if not project.may(request.user, role):
        words = {"role": role.label.lower(), "project": project}
        raise PermissionDenied(_("This needs the role %(role)s in %(project)s.") % words)
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
        raise PermissionDenied(_("Only a site administrator may do this."))
    return current_project(request)


def delete(request: HttpRequest, row: Any) -> HttpResponse:
    """Deletes a dataset, teacher or student that nothing was measured with, and says what happened."""
    require_maintainer(request, row.project)
    noun = row._meta.model_name
    try:
        row.delete()
    except ProtectedError as error:
        users = _counted(error.protected_objects)
        text = _("“%(name)s” stays: %(users)s would lose what they were measured with.")
        messages.error(request, text % {"name": row, "users": users})
        return redirect(f"{noun}_detail", pk=row.pk)
    messages.success(request, DELETED[noun] % {"name": row})
    return redirect(f"{noun}_list")


def _counted(rows: set[Model]) -> str:
    """2 runs and 1 teacher."""
    found = Counter("teacher" if isinstance(row, Teacher) else "run" for row in rows)
    parts = []
    if n := found["run"]:
        parts.append(ngettext("%(n)s run", "%(n)s runs", n) % {"n": n})
    if n := found["teacher"]:
        parts.append(ngettext("%(n)s teacher", "%(n)s teachers", n) % {"n": n})
    return _(" and ").join(parts)
