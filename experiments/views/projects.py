"""Switching between projects."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from experiments.middleware import SESSION_KEY
from experiments.models import Project


@require_POST
def project_switch(request: HttpRequest) -> HttpResponse:
    """Remember the choice and start at that project's home: the page at hand belongs to the old one."""
    given = request.POST.get("project", "")
    project = get_object_or_404(Project.objects.for_user(request.user), pk=given if given.isdecimal() else 0)
    request.session[SESSION_KEY] = project.pk
    return redirect("home")
