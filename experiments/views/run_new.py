"""A new run: the form, its live checks, and the parts of it that htmx exchanges."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from experiments import plan_facts, planning
from experiments.forms.runs import PURPOSE_HELP, RunForm, TermForm, networks, term_rows
from experiments.models import Architecture, Dataset, Method, Project, Run, Student, Teacher, Worker
from experiments.plan_checks import Parts, Problem
from experiments.planning import Plan, PlanError
from worker.distill.spec import Objective, Term, Training

from .access import require_member


@require_http_methods(["GET", "POST"])
def run_new(request: HttpRequest) -> HttpResponse:
    project = require_member(request)
    if request.method == "GET":
        return _page(request, project, RunForm(project, plan=starting_plan(request, project)))
    form = RunForm(project, request.POST)
    if changed := _changed_rows(request, project, form):
        return _page(request, project, changed)
    valid, plan = form.is_valid(), form.plan()
    judged = _judged(request, form)  # before errors are marked: a marked field counts as empty
    if plan is not None:
        try:
            if valid:
                return _started(request, planning.create(plan, request.user))
            form.mark(planning.check(plan, request.user))
        except PlanError as error:
            form.mark(error.problems)
    return _page(request, project, form, judged, status=422)


def _started(request: HttpRequest, runs: list[Run]) -> HttpResponse:
    if len(runs) == 1:
        messages.success(request, f"{runs[0].name} is queued.")
        return redirect("run_detail", pk=runs[0].pk)
    messages.success(request, f"{len(runs)} runs are queued.")
    return redirect("run_list")


def _page(
    request: HttpRequest,
    project: Project,
    form: RunForm,
    judged: dict[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    context = {
        "form": form,
        "networks": networks(project),
        "purpose_help": PURPOSE_HELP,
        **_preset_context(request.POST, chosen=_first_preset(request) if _untouched(form) else ""),
        "has_dataset": Dataset.objects.filter(project=project).exists(),
        **(judged or _judged(request, form)),
    }
    return render(request, "runs/new.html", context, status=status)


def _changed_rows(request: HttpRequest, project: Project, form: RunForm) -> RunForm | None:
    """The buttons of a browser without JavaScript: apply a preset, add a term, remove one."""
    data = request.POST.copy()
    if "apply_preset" in data:
        rows = term_rows(_preset(data), form.methods)
        data.setlist("term", [])
        fresh = RunForm(project, data)
        fresh.terms = rows
        return fresh
    if "add_term" in data:
        data.appendlist("term", uuid.uuid4().hex[:6])
    elif gone := data.get("remove_term"):
        data.setlist("term", [row for row in data.getlist("term") if row != gone])
    else:
        return None
    return RunForm(project, data)


# --- What the form begins with ----------------------------------------------------------------------------
def starting_plan(request: HttpRequest, project: Project) -> Plan | None:
    """From a run that is cloned, from the rows other pages link with, else from what is likely."""
    if (source := request.GET.get("from", "")).isdecimal():
        return clone(get_object_or_404(Run.objects.for_user(request.user), project=project, pk=source))
    teacher = _asked(request, project, Teacher, "teacher")
    dataset = _asked(request, project, Dataset, "dataset") or (teacher and teacher.dataset)
    student = _asked(request, project, Student, "student")
    purpose = request.GET.get("purpose", "distil")
    if purpose not in Run.Purpose.values:
        purpose = "distil"
    ready = Dataset.objects.filter(project=project, status=Dataset.Status.READY)
    teachers = Teacher.objects.filter(project=project, status=Teacher.Status.READY).select_related("dataset")
    if dataset is None:
        likely = teachers.order_by("-created").first() if purpose == "distil" else None
        dataset = likely.dataset if likely else ready.order_by("-created").first()
    if dataset is None:
        return None
    if teacher is None and purpose == "distil":
        found = sorted(teachers.filter(dataset=dataset), key=lambda t: t.score or 0.0)
        teacher = found[-1] if found else None
    return Plan(
        project=project.pk,
        purpose=purpose,
        dataset=dataset.pk,
        teacher=teacher.pk if teacher else None,
        student=student.pk if student else None,
        architecture=request.GET.get("architecture", "")[:200] or _likely_network(project, dataset, purpose),
        training=_latest_training(project, dataset),
        objective=_first_objective(request) if purpose == Run.Purpose.DISTIL else Objective(),
    )


def _first_preset(request: HttpRequest) -> str:
    """The preset of the method that the page of methods links with; none for a method without one."""
    asked = request.GET.get("method", "")
    if asked in plan_facts.PRESETS:
        return asked
    return "" if Method.objects.filter(pk=asked, available=True).exists() else "kd"


def _first_objective(request: HttpRequest) -> Objective:
    if preset := _first_preset(request):
        return plan_facts.preset(preset)
    return Objective(terms=[Term(method=request.GET["method"], weight=1.0)])


def _asked(request: HttpRequest, project: Project, model: Any, name: str) -> Any:
    key = request.GET.get(name, "")
    return get_object_or_404(model, project=project, pk=key) if key.isdecimal() else None


def _likely_network(project: Project, dataset: Dataset, purpose: str) -> str:
    """The network last trained here for this purpose, else one of the literature's usual pair."""
    runs = Run.objects.filter(project=project, dataset=dataset).order_by("-created")
    teaches = purpose == Run.Purpose.TEACHER
    last = runs.filter(purpose=purpose).first() if teaches else runs.exclude(purpose="teacher").first()
    usual = "resnet56" if teaches else "resnet8"
    return last.architecture_id if last else usual if Architecture.objects.filter(pk=usual).exists() else ""


def _latest_training(project: Project, dataset: Dataset) -> Training:
    """The budget that was last used on this dataset: what one compares with wants the same."""
    runs = Run.objects.filter(project=project, dataset=dataset, status=Run.Status.SUCCEEDED)
    last = runs.exclude(purpose=Run.Purpose.TEACHER).order_by("-created").first()
    return Training(**last.training) if last else Training()


def clone(run: Run) -> Plan:
    return Plan(
        project=run.project_id,
        name=f"{run.name} (copy)"[:120],
        experiment=run.experiment.name if run.experiment else "",
        purpose=run.purpose,
        dataset=run.dataset_id,
        student=run.student_id,
        architecture="" if run.student_id else run.architecture_id,
        teacher=run.teacher_id,
        training=Training(**run.training),
        objective=Objective(**run.objective),
        control="run" if run.control_id else "none",
        parent=run.pk,
    )


# --- Live checks ------------------------------------------------------------------------------------------
@require_POST
def run_check(request: HttpRequest) -> HttpResponse:
    """What is right and wrong with the form as it stands, its formula and its proposed name."""
    project = require_member(request)
    form = RunForm(project, request.POST)
    form.is_valid()
    return render(request, "runs/_check.html", {"form": form, "live": True, **_judged(request, form)})


def _judged(request: HttpRequest, form: RunForm) -> dict[str, Any]:
    plan = form.plan() if form.is_bound else form.start
    problems = _typed_wrong(form)
    if plan is None:
        problems.append(Problem("dataset", None, "no dataset is chosen.", "Choose one, or add one first."))
        return {"problems": problems, "facts": [], "formula": ""}
    known = {problem.field for problem in problems}
    try:
        parts, _ = planning.gather(plan, request.user)
        problems += [problem for problem in planning.check(plan, request.user) if problem.field not in known]
    except PlanError as error:
        return {"problems": error.problems, "facts": [], "formula": ""}
    return {
        "problems": sorted(problems, key=lambda problem: problem.level != "error"),
        "facts": plan_facts.facts(parts),
        "formula": plan_facts.formula(plan.objective),
        "proposed": plan_facts.propose_name(parts),
        "layers": _layers(parts),
        "waiting": _awaits_profiles(parts),
        "errors": sum(problem.level == "error" for problem in problems),
    }


def _typed_wrong(form: RunForm) -> list[Problem]:
    """What the fields themselves refused."""
    if not form.is_bound:
        return []
    found = []
    for part in (form, *(form.terms if form.distils else ())):
        for bound in part:
            for message in bound.errors:
                name = bound.name.replace("training-", "training.")
                found.append(Problem(name, bound.value(), f"{bound.label}: {message}"))
    return found


def _layers(parts: Parts) -> dict[str, list[dict[str, Any]]]:
    profiles = {"student": parts.student_profile, "teacher": parts.teacher_profile}
    return {
        side: [
            {"path": layer["path"], "shape": "×".join(map(str, layer["shape"]))}
            for layer in (profile.stages or profile.layers if profile else [])
        ]
        for side, profile in profiles.items()
    }


def _awaits_profiles(parts: Parts) -> bool:
    """Whether asking again soon will tell more."""
    profiles = (parts.student_profile, parts.teacher_profile)
    waits = any(profile and profile.status == "waiting" for profile in profiles)
    return waits and Worker.objects.alive().exists()


# --- Parts of the form ------------------------------------------------------------------------------------
@require_GET
def run_term(request: HttpRequest) -> HttpResponse:
    """A row of the objective: a new one, or an old one whose method was changed."""
    require_member(request)
    methods = {method.key: method for method in Method.objects.filter(available=True)}
    row = request.GET.get("row", "")
    if not row.isalnum() or len(row) > 12:
        row = uuid.uuid4().hex[:6]
    form = TermForm(row, methods)
    if (asked := request.GET.get(f"t{row}-method")) in methods:
        weight = _number(request.GET.get(f"t{row}-weight"), 0, 1e6)
        form = TermForm(row, methods, term=Term(method=asked, weight=1.0 if weight is None else weight))
    return render(request, "runs/_term.html", {"term": form})


@require_GET
def run_objective(request: HttpRequest) -> HttpResponse:
    """The objective of a preset."""
    project = require_member(request)
    objective = _preset(request.GET)
    form = RunForm(project, plan=Plan(project=project.pk, dataset=0, objective=objective))
    context = {"form": form, "formula": plan_facts.formula(objective), **_preset_context(request.GET)}
    return render(request, "runs/_objective.html", context)


def _preset(data: Any) -> Objective:
    numbers = _preset_context(data, chosen="kd")
    return plan_facts.preset(numbers["preset"], numbers["alpha"], numbers["temperature"])


def _preset_context(data: Any, chosen: str = "") -> dict[str, Any]:
    """The preset's own controls: which it is, its α and T."""
    name = data.get("preset")
    name = name if name in plan_facts.PRESETS else chosen
    alpha = _number(data.get("alpha"), 0.0, 1.0)
    # α is turned while T stands in the row of the term: keep it
    typed = next((value for key, value in data.items() if key.endswith("-p-temperature")), None)
    temperature = _number(typed, 0.05, 100.0)
    return {
        "presets": plan_facts.PRESETS,
        "preset": name,
        "preset_help": plan_facts.PRESET_HELP.get(name, ""),
        "alpha": plan_facts.DEFAULT_ALPHA.get(name, 0.9) if alpha is None else alpha,
        "temperature": 4.0 if temperature is None else temperature,
    }


def _untouched(form: RunForm) -> bool:
    """A fresh form shows the preset it begins with; a cloned one its own terms."""
    return not form.is_bound and (form.start is None or form.start.parent is None)


def _number(text: str | None, low: float, high: float) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return min(high, max(low, value)) if value == value else None


@require_GET
def run_teachers(request: HttpRequest) -> HttpResponse:
    """The teacher's field for a dataset: who can teach on it, and why the others cannot."""
    project = require_member(request)
    form = RunForm(project, request.GET)
    return render(request, "runs/_teacher.html", {"form": form})


@require_GET
def run_networks(request: HttpRequest) -> HttpResponse:
    """Suggestions while a network's name is typed."""
    project = require_member(request)
    found = networks(project, request.GET.get("network", "").strip()[:100])
    return render(request, "runs/_networks.html", {"networks": found})
