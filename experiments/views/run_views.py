"""Saved views: the runs table as somebody wants to see it again, for himself or for the project."""

from __future__ import annotations

from django.contrib import messages
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from experiments.models import Role, SavedView
from experiments.run_table import state

from .access import current_project, require_member

LONGEST = 60  # characters of a name


def _to(view: SavedView | None, query: str = "") -> HttpResponse:
    # An empty query would lead to the view the person begins with: q= says the plain table.
    return redirect(f"{reverse('run_list')}?{(view.query if view else query) or 'q='}")


def _name(request: HttpRequest) -> str:
    """ValueError with field and fix."""
    name = " ".join(request.POST.get("name", "").split())
    if not name or len(name) > LONGEST:
        words = _("name = “%(name)s”: a view needs a name of 1 to %(most)s characters.")
        raise ValueError(words % {"name": name[:LONGEST], "most": LONGEST})
    return name


@require_POST
def view_save(request: HttpRequest) -> HttpResponse:
    """What the page shows now, under a name; a view of one's own with that name is replaced."""
    project = current_project(request)
    query = state.of(QueryDict(request.POST.get("query", "")[:2000])).view
    try:
        name = _name(request)
    except ValueError as error:
        messages.error(request, str(error))
        return _to(None, query)
    shared, first = "shared" in request.POST, "first" in request.POST
    if shared:
        require_member(request, project)
    with transaction.atomic():
        view, new = SavedView.objects.update_or_create(
            project=project, owner_id=request.user.pk, name=name, defaults={"query": query, "shared": shared}
        )
        _set_first(view, first)
    words = _("The view “%(name)s” is saved.") if new else _("The view “%(name)s” now shows this.")
    messages.success(request, words % {"name": name})
    return _to(view)


def _set_first(view: SavedView, first: bool) -> None:
    """One of a person's views at most is what the page begins with."""
    if first:
        SavedView.objects.filter(project=view.project_id, owner=view.owner_id, first=True).update(first=False)
    SavedView.objects.filter(pk=view.pk).update(first=first)


@require_POST
def view_change(request: HttpRequest, pk: int) -> HttpResponse:
    """Another name, shared or not, begun with or not. Only its owner may."""
    project = current_project(request)
    view = get_object_or_404(SavedView, pk=pk, owner=request.user.pk, project=project)
    try:
        view.name = _name(request)
    except ValueError as error:
        messages.error(request, str(error))
        return _to(view)
    if SavedView.objects.filter(project=project, owner=view.owner_id, name=view.name).exclude(pk=pk).exists():
        words = _("name = “%(name)s”: you have a view of this name. Choose another.")
        messages.error(request, words % {"name": view.name})
        return _to(view)
    view.shared = "shared" in request.POST
    if view.shared:
        require_member(request, project)
    with transaction.atomic():
        view.save(update_fields=["name", "shared"])
        _set_first(view, "first" in request.POST)
    messages.success(request, _("The view “%(name)s” is changed.") % {"name": view.name})
    return _to(view)


@require_POST
def view_delete(request: HttpRequest, pk: int) -> HttpResponse:
    """One's own; a maintainer also takes away what others share."""
    project = current_project(request)
    allowed = Q(owner=request.user.pk)
    if project.may(request.user, Role.MAINTAINER):
        allowed |= Q(shared=True)
    view = get_object_or_404(SavedView.objects.filter(allowed), pk=pk, project=project)
    name, query = view.name, view.query
    view.delete()
    messages.success(request, _("The view “%(name)s” is deleted.") % {"name": name})
    return _to(None, query)
