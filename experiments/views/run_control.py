"""What people do to runs: one from its page, many from the list; and the notes on a run."""

from __future__ import annotations

import json
from collections.abc import Callable

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from experiments import controls, notes
from experiments.controls import Said
from experiments.lifecycle import Refused
from experiments.models import Project, Role, Run

from .access import require_member

MOST = 500  # runs that are changed at once


def _member_s_run(request: HttpRequest, pk: int) -> Run:
    run = get_object_or_404(Run.objects.for_user(request.user).select_related("project"), pk=pk)
    require_member(request, run.project)
    return run


def _answer(request: HttpRequest, act: Callable[[], Said], back: str, pk: int) -> HttpResponse:
    """Does it, says what came of it, and shows the page again."""
    try:
        said = act()
    except Refused as refusal:
        messages.error(request, str(refusal))
        return redirect("run_detail", pk=pk)
    (messages.success if said.done else messages.info)(request, said.text)
    return redirect(back, pk=pk) if back == "run_detail" else redirect(back)


@require_POST
def run_act(request: HttpRequest, pk: int, action: str) -> HttpResponse:
    """pause, resume or stop."""
    run = _member_s_run(request, pk)
    act = {"pause": controls.pause, "resume": controls.resume, "stop": controls.stop}[action]
    return _answer(request, lambda: act(run, request.user), "run_detail", pk)


@require_POST
def run_retry(request: HttpRequest, pk: int) -> HttpResponse:
    """From its last checkpoint; with `from=start` from the start."""
    run = _member_s_run(request, pk)
    from_start = request.POST.get("from") == "start"
    return _answer(request, lambda: controls.retry(run, request.user, from_start), "run_detail", pk)


@require_POST
def run_priority(request: HttpRequest, pk: int) -> HttpResponse:
    run = _member_s_run(request, pk)
    asked = request.POST.get("priority", "")
    if asked not in controls.PRIORITIES:
        names = ", ".join(controls.PRIORITIES)
        messages.error(request, f"priority = {asked[:40]!r}: there is no such priority. Choose {names}.")
        return redirect("run_detail", pk=pk)
    level = controls.PRIORITIES[asked]
    return _answer(request, lambda: controls.set_priority(run, level, request.user), "run_detail", pk)


@require_POST
def run_delete(request: HttpRequest, pk: int) -> HttpResponse:
    run = Run.objects.for_user(request.user).select_related("project").filter(pk=pk).first()
    if run is None:  # a second tab, or another project's: both look alike
        messages.info(request, "The run is not there (any more).")
        return redirect("run_list")
    require_member(request, run.project)
    return _answer(request, lambda: controls.delete(run, request.user), "run_list", pk)


@require_POST
def run_bulk(request: HttpRequest, action: str) -> HttpResponse:
    """Pauses, resumes, stops or deletes the chosen runs, each by its own rule, and says what came of it."""
    if action not in controls.BULK:
        raise Http404("There is no such action.")
    keys = {int(key) for key in request.POST.getlist("run")[:MOST] if key.isdecimal()}
    found = Run.objects.for_user(request.user).filter(pk__in=keys).select_related("project")
    roles: dict[Project, bool] = {}
    mine = []
    for run in found:
        if run.project not in roles:
            roles[run.project] = run.project.may(request.user, Role.MEMBER)
        if roles[run.project]:
            mine.append(run)
    said = controls.bulk(action, mine, request.user, len(keys) - len(mine))
    toast = {"text": said.text if keys else "No run is selected.", "kind": "ok" if said.done else "warn"}
    return HttpResponse(
        status=204, headers={"HX-Trigger": json.dumps({"kd:toast": toast, "kd:refresh": True})}
    )


@require_http_methods(["GET", "POST"])
def run_notes(request: HttpRequest, pk: int) -> HttpResponse:
    """The notes' card; with `edit` as a form. Who saves what he began from older notes gets both texts."""
    run = get_object_or_404(Run.objects.for_user(request.user).select_related("project"), pk=pk)
    context: dict[str, object] = {"run": run, "may_start": run.project.may(request.user, Role.MEMBER)}
    if request.method == "POST":
        require_member(request, run.project)
        context |= _save_notes(run, request.POST.get("text", ""), request.POST.get("version", ""))
        if not context["edit"] and not request.htmx:  # type: ignore[attr-defined]
            return redirect("run_detail", pk=pk)
    elif "edit" in request.GET:
        require_member(request, run.project)
        context |= {"edit": True, "text": run.notes}
    template = "runs/_notes.html" if request.htmx else "runs/notes.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _save_notes(run: Run, text: str, version: str) -> dict[str, object]:
    """What the card shows afterwards: the notes, or the form with what is in the way."""
    try:
        saved = notes.save(run, text, int(version) if version.isdecimal() else -1)
    except ValueError as error:
        return {"edit": True, "text": text, "error": str(error)}
    return {"edit": not saved, "text": text, "conflict": not saved}
