"""Tags and the star of one run."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from experiments import controls
from experiments.lifecycle import Refused
from experiments.models import Role, Run, Star

from .access import require_member


@require_POST
def run_star(request: HttpRequest, pk: int) -> HttpResponse:
    """The person's star on it: put on (`on`=1), taken off (0), or, without `on`, the other way round."""
    run = get_object_or_404(Run.objects.for_user(request.user), pk=pk)
    on = request.POST.get("on") or str(int(not starred(request, run)))
    (controls.star if on == "1" else controls.unstar)(run, request.user)  # type: ignore[arg-type]
    if not request.htmx:  # type: ignore[attr-defined]
        return redirect("run_detail", pk=pk)
    return render(request, "runs/_star.html", {"run": run, "starred": on == "1"})


def starred(request: HttpRequest, run: Run) -> bool:
    return Star.objects.filter(run=run, user=request.user.pk or 0).exists()


@require_http_methods(["GET", "POST"])
def run_tags(request: HttpRequest, pk: int) -> HttpResponse:
    """The run's tags; with `edit` as a form. POST `add` or `remove` with a tag."""
    run = get_object_or_404(Run.objects.for_user(request.user).select_related("project"), pk=pk)
    context: dict[str, Any] = {"edit": "edit" in request.GET}
    if request.method == "POST" or context["edit"]:
        require_member(request, run.project)
    if request.method == "POST":
        context = {"edit": True, "error": _changed(run, request.POST.get("add"), request.POST.get("remove"))}
        if context["error"]:
            context["typed"] = request.POST.get("add", "")[:200]
    if not request.htmx:  # type: ignore[attr-defined]
        if context.get("error"):
            messages.error(request, context["error"])
        return redirect("run_detail", pk=pk)
    return render(request, "runs/_tags.html", context | shown(request, run))


def shown(request: HttpRequest, run: Run) -> dict[str, Any]:
    """What the tags of a run's page need; `known` are for completion."""
    borne = list(run.tags.all())
    return {
        "run": run,
        "tags": borne,
        "may_start": run.project.may(request.user, Role.MEMBER),
        "known": run.project.tags.exclude(pk__in=[tag.pk for tag in borne]),
    }


def _changed(run: Run, add: str | None, remove: str | None) -> str:
    """Does it; what is in the way, in words."""
    try:
        if remove is not None:
            controls.untag(run, remove)
        else:
            controls.tag(run, add or "")
    except (ValueError, Refused) as error:
        return str(error)
    return ""
