"""The trash of a project: what lies in it, since when and by whom; emptied for good."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_POST

from experiments import controls, shelves
from experiments.lifecycle import Refused
from experiments.models import Artifact, Run

from .access import allowed, current_project, require_member

PER_PAGE = 50


@require_GET
def trash(request: HttpRequest) -> HttpResponse:
    project = current_project(request)
    lying = Run.objects.for_user(request.user).filter(project=project)
    page = Paginator(shelves.in_trash(lying).select_related("dataset"), PER_PAGE).get_page(
        request.GET.get("page")
    )
    days = settings.KDWEB_TRASH_DAYS
    for run in page.object_list:
        run.goes = run.shelved + timedelta(days=days) if days and run.shelved else None
    files = Artifact.objects.filter(run__project=project, run__shelf=Run.Shelf.TRASH)
    context = {
        "page": page,
        "days": days,
        "total": page.paginator.count,
        "files": files.aggregate(sum=Sum("bytes"))["sum"] or 0,
        "at_once": shelves.AT_ONCE,
        "here": request.get_full_path(),
    } | allowed(request, project)
    return render(request, "runs/_trash.html" if request.htmx else "runs/trash.html", context)  # type: ignore[attr-defined]


@require_POST
def run_purge(request: HttpRequest, pk: int) -> HttpResponse:
    """One run, for good."""
    run = Run.objects.for_user(request.user).select_related("project").filter(pk=pk).first()
    if run is None:
        messages.info(request, _("The run is not there (any more)."))
        return redirect("trash")
    require_member(request, run.project)
    try:
        said = controls.purge(run, request.user)
    except Refused as refusal:
        messages.error(request, str(refusal))
        return redirect("run_detail", pk=pk)
    (messages.success if said.done else messages.info)(request, said.text)
    return redirect("trash")


@require_POST
def trash_empty(request: HttpRequest) -> HttpResponse:
    """All of the project's trash, for good; of a very full one a part at a time."""
    project = require_member(request)
    gone, reasons = shelves.empty(Run.objects.filter(project=project), request.user)
    left = Run.objects.filter(project=project, shelf=Run.Shelf.TRASH).count() - len(reasons)
    text = ngettext("%(n)s run is deleted.", "%(n)s runs are deleted.", gone) % {"n": gone}
    messages.success(request, text)
    if left > 0:
        messages.info(request, _("%(n)s are still in the trash: empty it again.") % {"n": left})
    for reason in reasons[:3]:
        messages.error(request, reason)
    return redirect("trash")
