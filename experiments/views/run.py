"""One run: its page, the part of it that a change of state renews, its files."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET

from experiments import measurements, plan_facts, run_config, run_tiles, waiting
from experiments.models import Artifact, Run, RunEvent
from experiments.templatetags.kd import duration, filesize

from . import console, tags

RELATED = (
    "project",
    "dataset",
    "architecture",
    "student",
    "teacher",
    "teacher__architecture",
    "makes",
    "owner",
    "notes_by",
    "experiment",
    "control",
    "control__dataset",
    "control__architecture",
    "control__student",
    "control__teacher",
    "parent",
    "parent__dataset",
    "parent__architecture",
    "parent__student",
    "parent__teacher",
)


def own(request: HttpRequest) -> QuerySet[Run]:
    found = Run.objects.for_user(request.user).select_related(*RELATED)
    return found.prefetch_related("beside__teacher", "control__beside__teacher", "parent__beside__teacher")


@require_GET
def run_detail(request: HttpRequest, pk: int) -> HttpResponse:
    run = get_object_or_404(own(request), pk=pk)
    context = _summary(request, run) | {
        "formula": plan_facts.formula(run.objective),
        "terms": run.objective.get("terms", []),
        "config": run_config.table([run]),
        "diffs": _diffs(run),
        "console": console.context(run),
    }
    return render(request, "runs/detail.html", context)


def cache_line(run: Run) -> str:
    """What the cache of teachers' outputs saved this run, or why it was not used. Nothing before the end."""
    found = run.results.get("cache")
    if not found:
        return ""
    views = found["reused"] + found["computed"]
    if not found["rows"]:
        return " ".join([_("Teacher cache: not used."), _sentence(found["reason"])]).strip()
    reused = ngettext("%(n)s of %(views)s view reused", "%(n)s of %(views)s views reused", views)
    parts = [reused % {"n": found["reused"], "views": views}]
    if found["seconds_saved"] >= 0.1:
        saved = {"time": duration(found["seconds_saved"])}
        parts.append(_("about %(time)s of teacher time saved") % saved)
    if found["computed"]:
        spent = {"time": duration(found["seconds_computing"])}
        parts.append(_("%(time)s spent on computing the rest") % spent)
    parts.append(_("%(size)s on disk") % {"size": filesize(found["bytes"])})
    line = _("Teacher cache: %(parts)s.") % {"parts": ", ".join(parts)}
    return f"{line} {_sentence(found['reason'])}".strip()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


@require_GET
def run_summary(request: HttpRequest, pk: int) -> HttpResponse:
    """Header, tiles, attempts and history: what htmx fetches when the state changes."""
    run = own(request).filter(pk=pk).first()
    if run is None and request.htmx:  # type: ignore[attr-defined]  # deleted while its page was open
        return render(request, "runs/_gone.html")
    if run is None:
        raise Http404
    return render(request, "runs/_renewed.html", _summary(request, run))


def _summary(request: HttpRequest, run: Run) -> dict[str, Any]:
    attempts = list(run.attempts.all())
    return {
        **tags.shown(request, run),
        **neighbours(run),
        "starred": tags.starred(request, run),
        "trash_days": settings.KDWEB_TRASH_DAYS,
        "tiles": run_tiles.accuracy(run),
        "fidelity": run_tiles.fidelity(run),
        "sizes": run_tiles.size(run),
        "events": history(run.events.all(), {attempt.worker for attempt in attempts}),
        "attempts": attempts,
        "weights": run.artifacts.filter(kind="student").order_by("-fence", "-step").first(),
        "checkpoint": run.artifacts.filter(kind=Artifact.Kind.RESUME).order_by("-fence", "-step").first(),
        "waits_for": waiting.reason(run),
        "place": waiting.place(run),
        "priorities": [(level.value, level.name.lower(), level.label) for level in Run.Priority],
        "cache": cache_line(run),
        "artifacts": run.artifacts.all(),
        "classes": per_class(run),
        "runs_of_control": run.controlled.all()[:20] if run.purpose == Run.Purpose.CONTROL else [],
    }


def neighbours(run: Run) -> dict[str, int | None]:
    """Keys of the runs created just before and after this one, of those that its project's list shows."""
    others = Run.objects.shown().filter(project=run.project_id).exclude(pk=run.pk).order_by()
    keys = others.values_list("pk", flat=True)
    older = Q(created__lt=run.created) | Q(created=run.created, pk__lt=run.pk)
    newer = Q(created__gt=run.created) | Q(created=run.created, pk__gt=run.pk)
    return {
        "before": keys.filter(older).order_by("-created", "-pk").first(),
        "after": keys.filter(newer).order_by("created", "pk").first(),
    }


def _who(actor: str, workers: set[str]) -> str:
    """Who did it, beside the sentence that says what."""
    if not actor:
        return ""
    if actor in workers:
        return _("on worker %(name)s") % {"name": actor}
    return _("by the sweep") if actor == "sweep" else _("by %(name)s") % {"name": actor}


def history(events: QuerySet[RunEvent], workers: set[str]) -> list[dict[str, Any]]:
    """What happened as sentences, newest last; who did it, unless the sentence says so itself."""
    lines = []
    for event in events:
        who = _who(event.actor, workers)
        lines.append({"event": event, "who": "" if event.text.endswith(f"by {event.actor}.") else who})
    return lines


def _diffs(run: Run) -> list[dict[str, Any]]:
    """What differs from the run it was cloned from, and from its control."""
    others = [("parent", run.parent), ("control", run.control)]
    return [
        {"kind": kind, "other": other, "rows": run_config.differences([run, other])}
        for kind, other in others
        if other is not None
    ]


def per_class(run: Run) -> list[dict[str, Any]]:
    """A row a class: student, teacher, control, largest loss against the teacher first."""
    student = measurements.per_class(run.results.get("student"))
    if not student:
        return []
    teacher = measurements.per_class(run.results.get("teacher"))
    control = measurements.per_class(run.control.results.get("student") if run.control else None)
    names = run.dataset.classes if len(run.dataset.classes) == len(student) else range(len(student))
    rows = [
        {"name": name, "student": s, "teacher": t, "control": c, "delta": difference(s, t)}
        for name, s, t, c in zip_longest(names, student, teacher[: len(student)], control[: len(student)])
    ]
    return sorted(rows, key=_by_loss)


def difference(student: float | None, teacher: float | None) -> float | None:
    return None if student is None or teacher is None else student - teacher


def _by_loss(row: dict[str, Any]) -> float:
    """Against the teacher, else the value itself; a class without samples comes last."""
    value = row["delta"] if row["delta"] is not None else row["student"]
    return float("inf") if value is None else float(value)


@require_GET
def run_artifact(request: HttpRequest, pk: int, artifact: int) -> FileResponse:
    """A file the run left, as an attachment. The path comes from a worker and is checked all the same."""
    run = get_object_or_404(Run.objects.for_user(request.user), pk=pk)
    found = get_object_or_404(run.artifacts, pk=artifact)
    root = Path(settings.KDWEB_DATA).resolve()
    path = found.full_path.resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise Http404(_("The file is no longer on the disk."))
    return FileResponse(
        open(path, "rb"),
        as_attachment=True,
        filename=f"run-{run.pk}-{path.name}",
        content_type="application/octet-stream",
        headers={"X-Content-Type-Options": "nosniff"},
    )
