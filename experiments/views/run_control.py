"""What people do to runs: one from its page, many from the list; and the notes on a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from experiments import bulk, controls, notes
from experiments.controls import Said
from experiments.lifecycle import Refused
from experiments.models import Project, Role, Run

from .access import require_member


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
        words = _("priority = %(asked)r: there is no such priority. Choose %(names)s.")
        messages.error(request, words % {"asked": asked[:40], "names": names})
        return redirect("run_detail", pk=pk)
    level = controls.PRIORITIES[asked]
    return _answer(request, lambda: controls.set_priority(run, level, request.user), "run_detail", pk)


@require_POST
def run_delete(request: HttpRequest, pk: int) -> HttpResponse:
    """Into the trash, from where it can be restored."""
    run = Run.objects.for_user(request.user).select_related("project").filter(pk=pk).first()
    if run is None:  # a second tab, or another project's: both look alike
        messages.info(request, _("The run is not there (any more)."))
        return redirect("run_list")
    require_member(request, run.project)
    return _answer(request, lambda: controls.trash(run, request.user), "run_detail", pk)


@require_POST
def run_bulk(request: HttpRequest, action: str) -> HttpResponse:
    """The same for the chosen runs (`run`, repeated, or `runs`: 1-3,9), each by its own rule; says what came
    of it in a toast, which takes back what was changed."""
    wanted = bulk.ACTIONS.get(action)
    if wanted is None:
        raise Http404("There is no such action.")
    keys = bulk.unpacked(",".join([*request.POST.getlist("run"), *request.POST.getlist("runs")]))
    if not keys:
        return _toast(_("No run is selected."), "warn")
    if len(keys) > bulk.MOST:
        words = _("More than %(most)s runs are selected: choose at most so many at once.")
        return _toast(words % {"most": bulk.MOST}, "bad")
    mine = _changeable(request, keys, wanted)
    tag = request.POST.get("tag", "")
    try:
        came = bulk.do(wanted, mine, request.user, tag, len(keys) - len(mine))
    except ValueError as error:
        return _toast(str(error), "bad")
    undo = {}
    if came.changed and wanted.undo:
        values = {"runs": bulk.packed(came.changed)} | ({"tag": tag} if wanted.tagged else {})
        undo = {"label": _("Undo"), "url": reverse("run_bulk", args=[wanted.undo]), "values": values}
    return _toast(came.text, "ok" if came.changed else "warn", undo)


def _changeable(request: HttpRequest, keys: set[int], wanted: bulk.Action) -> list[Run]:
    """Those of the runs that the person may do this to."""
    found = Run.objects.for_user(request.user).filter(pk__in=keys).select_related("project").order_by("pk")
    roles: dict[Project, bool] = {}
    mine = []
    for run in found:
        if run.project not in roles:
            roles[run.project] = wanted.own or run.project.may(request.user, Role.MEMBER)
        if roles[run.project]:
            mine.append(run)
    return mine


def _toast(text: str, kind: str, action: dict[str, Any] | None = None) -> HttpResponse:
    toast = {"text": text, "kind": kind} | ({"action": action} if action else {})
    return HttpResponse(
        status=204, headers={"HX-Trigger": json.dumps({"kd:toast": toast, "kd:refresh": True})}
    )


@require_http_methods(["GET", "POST"])
def run_notes(request: HttpRequest, pk: int) -> HttpResponse:
    """The notes' card; with `edit` as a form; posted with `show`, the form once more, written or as it will
    look. Who saves what he began from older notes gets both texts."""
    run = get_object_or_404(Run.objects.for_user(request.user).select_related("project", "notes_by"), pk=pk)
    context: dict[str, object] = {"run": run, "may_start": run.project.may(request.user, Role.MEMBER)}
    if request.method == "POST":
        require_member(request, run.project)
        context |= _shown_notes(request) if "show" in request.POST else _save_notes(request, run)
        if not context["edit"] and not request.htmx:  # type: ignore[attr-defined]
            return redirect("run_detail", pk=pk)
    elif "edit" in request.GET:
        require_member(request, run.project)
        context |= {"edit": True, "text": run.notes, "version": run.notes_version}
    template = "runs/_notes.html" if request.htmx else "runs/notes.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _shown_notes(request: HttpRequest) -> dict[str, object]:
    """Nothing is saved: what was typed, and what it was begun from, go back as they came."""
    data = request.POST
    back: dict[str, object] = {name: data.get(name, "") for name in ("text", "version", "conflict")}
    try:
        notes.clean(data.get("text", ""))
    except ValueError as error:
        return back | {"edit": True, "error": str(error)}
    return back | {"edit": True, "preview": data["show"] == "preview"}


def _save_notes(request: HttpRequest, run: Run) -> dict[str, object]:
    """What the card shows afterwards: the notes, or the form with what is in the way."""
    text, version = request.POST.get("text", ""), request.POST.get("version", "")
    try:
        saved = notes.save(run, text, int(version) if version.isdecimal() else -1, request.user)  # type: ignore[arg-type]
    except ValueError as error:
        return {"edit": True, "text": text, "error": str(error), "version": version}
    return {"edit": not saved, "text": text, "conflict": not saved, "version": run.notes_version}
