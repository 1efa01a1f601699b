"""A new run: the form, its live checks, and the parts of it that htmx exchanges."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from experiments import plan_facts, planning, recipes
from experiments.forms.runs import PURPOSE_HELP, RunForm, networks
from experiments.forms.terms import TermForm, term_rows
from experiments.models import Dataset, Method, Project, Run, Worker
from experiments.plan_parts import Parts, Problem
from experiments.planning import Plan, PlanError
from worker.distill.spec import Objective, Term

from .access import require_member
from .run_start import first_preset, starting_plan


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
        messages.success(request, _("%(run)s is queued.") % {"run": runs[0].name})
        return redirect("run_detail", pk=runs[0].pk)
    text = ngettext("%(n)s run is queued.", "%(n)s runs are queued.", len(runs))
    messages.success(request, text % {"n": len(runs)})
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
        **_preset_context(request.POST, chosen=first_preset(request) if _untouched(form) else ""),
        "recipe": _recipe(form, request.POST or request.GET),
        "has_dataset": Dataset.objects.filter(project=project).exists(),
        **(judged or _judged(request, form)),
    }
    return render(request, "runs/new.html", context, status=status)


def _changed_rows(request: HttpRequest, project: Project, form: RunForm) -> RunForm | None:
    """The buttons of a browser without JavaScript: apply a preset or a recipe, add a term, remove one."""
    data = request.POST.copy()
    if "apply_preset" in data:
        rows = term_rows(_preset(data), form.methods)
        data.setlist("term", [])
        fresh = RunForm(project, data)
        fresh.terms = rows
        return fresh
    if "add_term" in data:
        data.appendlist("term", uuid.uuid4().hex[:6])
    elif recipe := recipes.find(form.methods.values(), data.get("apply_recipe", "")):
        return RunForm(project, _filled(data, recipe, form.methods))
    elif gone := data.get("remove_term"):
        data.setlist("term", [row for row in data.getlist("term") if row != gone])
    else:
        return None
    return RunForm(project, data)


# --- Live checks ------------------------------------------------------------------------------------------
@require_POST
def run_check(request: HttpRequest) -> HttpResponse:
    """What is right and wrong with the form as it stands, its formula and its proposed name."""
    project = require_member(request)
    form = RunForm(project, request.POST)
    form.is_valid()
    context = {"form": form, "live": True, **_judged(request, form)}
    context["pair_changed"] = context["pair"] != request.POST.get("recipes_for")
    return render(request, "runs/_check.html", context)


def _judged(request: HttpRequest, form: RunForm) -> dict[str, Any]:
    plan = form.plan() if form.is_bound else form.start
    problems = _typed_wrong(form)
    if plan is None:
        fix = _("Choose one, or add one first.")
        problems.append(Problem("dataset", None, _("no dataset is chosen."), fix))
        return {"problems": problems, "facts": [], "formula": "", **_recipes(form, None)}
    known = {problem.field for problem in problems}
    try:
        parts = planning.gather(plan, request.user)[0]
        problems += [problem for problem in planning.check(plan, request.user) if problem.field not in known]
    except PlanError as error:
        return {"problems": error.problems, "facts": [], "formula": "", **_recipes(form, None)}
    if len(form.terms) == len(parts.objective.terms):
        for row, pairs in zip(form.terms, plan_facts.term_pairs(parts), strict=True):
            row.pairs = pairs
    return {
        "problems": sorted(problems, key=lambda problem: problem.level != "error"),
        "facts": plan_facts.facts(parts),
        "formula": plan_facts.formula(plan.objective),
        "proposed": plan_facts.propose_name(parts),
        "layers": _layers(parts),
        **_recipes(form, parts),
        "waiting": _awaits_profiles(parts),
        "errors": sum(problem.level == "error" for problem in problems),
    }


def _recipes(form: RunForm, parts: Parts | None) -> dict[str, Any]:
    """Those for the pair of networks on the form; `pair` names them, to know when they change."""
    teacher = parts.teacher.architecture_id if parts and parts.teacher else ""
    student = parts.architecture.key if parts and parts.architecture else ""
    found = recipes.offered(form.methods.values(), teacher, student)
    fitting = sum(recipe.fits for recipe in found)
    return {"recipes": found, "fitting": fitting, "pair": f"{teacher} → {student}"}


def _recipe(form: RunForm, data: Any) -> recipes.Recipe | None:
    """The one whose values the form began with."""
    asked = data.get("apply_recipe") or data.get("recipe") or ""
    return recipes.find(form.methods.values(), asked)


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


@require_POST
def run_recipe(request: HttpRequest) -> HttpResponse:
    """Objective and training as a published recipe has them; what it does not set stays as it was typed."""
    project = require_member(request)
    form = RunForm(project, request.POST)
    recipe = recipes.find(form.methods.values(), request.POST.get("apply_recipe", ""))
    if recipe is None:
        return HttpResponse(_("There is no such recipe any more: load the page again."), status=404)
    filled = RunForm(project, _filled(request.POST, recipe, form.methods))
    context = {
        "form": filled,
        "formula": recipe.formula,
        "recipe": recipe,
        **_preset_context({"alpha": request.POST.get("alpha")}),
    }
    return render(request, "runs/_recipe_applied.html", context)


def _filled(data: Any, recipe: recipes.Recipe, methods: dict[str, Method]) -> Any:
    """The form's data with a recipe typed in: its terms instead of those there were."""
    kept = data.copy()
    old = {f"t{row}-" for row in kept.getlist("term")}
    sets = {f"training-{name}" for name in recipe.preset.training}
    for name in list(kept):
        if name in sets or name == "preset" or any(name.startswith(start) for start in old):
            del kept[name]
    for name, value in recipes.typed(recipe, methods).items():
        kept.setlist(name, value if isinstance(value, list) else [value])
    return kept


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
