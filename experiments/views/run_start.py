"""What the form of a new run begins with: a run that is cloned, what other pages name, what is likely."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from experiments import plan_facts, recipes
from experiments.models import Architecture, Dataset, Method, Project, Run, Student, Teacher
from experiments.planning import Plan
from worker.distill.spec import Mixing, Objective, Term, Training


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
        training=_first_training(request, project, dataset),
        objective=_first_objective(request) if purpose == Run.Purpose.DISTIL else Objective(),
    )


def first_preset(request: HttpRequest) -> str:
    """The preset of the method that the page of methods links with; none for a method without one."""
    if _first_recipe(request):
        return ""
    asked = request.GET.get("method", "")
    if asked in plan_facts.PRESETS:
        return asked
    return "" if Method.objects.filter(pk=asked, available=True).exists() else "kd"


def _first_recipe(request: HttpRequest) -> recipes.Recipe | None:
    """The recipe that the page of methods links with."""
    return recipes.find(Method.objects.filter(available=True), request.GET.get("recipe", ""))


def _first_training(request: HttpRequest, project: Project, dataset: Dataset) -> Training:
    training = _latest_training(project, dataset)
    recipe = _first_recipe(request)
    return Training(**(training.model_dump() | recipe.preset.training)) if recipe else training


def _first_objective(request: HttpRequest) -> Objective:
    if recipe := _first_recipe(request):
        return recipe.preset.objective
    if preset := first_preset(request):
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
        frozen_stages=run.frozen_stages,
        teacher=run.teacher_id,
        more_teachers=[teacher.pk for teacher in run.teachers[1:]],
        mixing=Mixing(**run.mixing),
        training=Training(**run.training),
        objective=Objective(**run.objective),
        control="run" if run.control_id else "none",
        parent=run.pk,
    )
