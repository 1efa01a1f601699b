"""The door to make runs: a plan is checked, then becomes runs in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from pydantic import Field, ValidationError

from experiments import lifecycle, plan_checks, plan_facts, queue, run_values
from experiments.forms.schema import with_defaults
from experiments.models import (
    Architecture,
    ArchitectureProfile,
    Dataset,
    Experiment,
    Method,
    Project,
    Role,
    Run,
    RunTeacher,
    Student,
    Teacher,
)
from experiments.plan_parts import Parts, Problem, closest, own_classes
from experiments.templatetags.kd import spoken
from worker.distill.spec import Mixing, Objective, Strict, Training

__all__ = ["Plan", "PlanError", "Problem", "check", "create", "gather", "problems_of"]

User = AbstractBaseUser | AnonymousUser
Purpose = Literal["distil", "control", "teacher"]


class Plan(Strict):
    """What a person asks for. Rows are named by id, architectures and methods by key."""

    project: int
    name: str = Field("", max_length=120)
    experiment: str = Field("", max_length=100, description="A group of runs, by name; made if it is new.")
    purpose: Purpose = "distil"
    dataset: int
    student: int | None = Field(None, description="A saved student; or give an architecture.")
    architecture: str = Field("", max_length=200)
    frozen_stages: int = Field(0, ge=0, le=100, description="Of the student, from the input on.")
    teacher: int | None = None
    more_teachers: list[int] = Field(default_factory=list, max_length=16)
    mixing: Mixing = Field(default_factory=Mixing)
    training: Training = Field(default_factory=Training)
    objective: Objective = Field(default_factory=Objective)
    control: Literal["none", "run", "existing"] = "run"
    control_run: int | None = Field(None, description="With control = existing.")
    seeds: int = Field(1, ge=1, le=20, description="As many runs, each with the next seed.")
    parent: int | None = Field(None, description="The run this one was cloned from.")
    submission: uuid.UUID | None = Field(None, description="Sent twice, it makes runs once.")


class PlanError(ValueError):
    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


def problems_of(error: ValidationError) -> list[Problem]:
    """Pydantic's refusal in our words."""
    return [
        _problem(item["loc"], item["input"], item["type"], item.get("ctx", {}), item["msg"])
        for item in error.errors()
    ]


def _problem(where: tuple[Any, ...], value: object, kind: str, ctx: dict[str, Any], message: str) -> Problem:
    path = ".".join(map(str, where))
    bounds = {
        "greater_than_equal": ("ge", _("it must be at least %(bound)s."), _("Use %(bound)s or more.")),
        "greater_than": ("gt", _("it must be above %(bound)s."), _("Use a value above %(bound)s.")),
        "less_than_equal": ("le", _("it must be at most %(bound)s."), _("Use %(bound)s or less.")),
        "less_than": ("lt", _("it must be below %(bound)s."), _("Use a value below %(bound)s.")),
    }
    if kind in bounds:
        key, problem, fix = bounds[kind]
        bound = {"bound": ctx[key]}
        return Problem(path, value, problem % bound, fix % bound)
    if kind == "literal_error":
        fix = _("Choose %(expected)s.") % {"expected": ctx["expected"]}
        return Problem(path, value, _("there is no such choice."), fix)
    if kind == "missing":
        return Problem(path, None, _("it is missing."), _("Give it a value."))
    if kind == "extra_forbidden":
        return Problem(path, value, _("there is no such field."), _("Remove it."))
    return Problem(path, value, f"{message[0].lower()}{message[1:]}.")


def gather(plan: Plan, user: User) -> tuple[Parts, list[Problem]]:
    """The rows a plan names, as far as the user may see them, and what could not be found."""
    missing: list[Problem] = []
    project = Project.objects.for_user(user).filter(pk=plan.project).first()
    if project is None:
        raise PlanError(
            [Problem("project", plan.project, _("there is no such project."), _("Choose one of yours."))]
        )
    if not project.may(user, Role.MEMBER):
        text, fix = _("viewers may not start runs here."), _("Ask a maintainer for the role of member.")
        missing.append(Problem("project", project.name, text, fix))

    def row(model: type[Any], name: str, pk: int | None, *related: str) -> Any:
        found = model.objects.filter(project=project, pk=pk).select_related(*related).first() if pk else None
        if pk and found is None:
            words = {"project": project, "thing": spoken(model._meta.verbose_name)}
            text, fix = _("%(project)s has no such %(thing)s."), _("Choose a %(thing)s of the list.")
            missing.append(Problem(name, pk, text % words, fix % words))
        return found

    parts = Parts(plan.purpose, plan.objective, plan.training)
    parts.mixing, parts.frozen_stages = plan.mixing, plan.frozen_stages
    parts.dataset = row(Dataset, "dataset", plan.dataset)
    parts.teacher = row(Teacher, "teacher", plan.teacher, "architecture", "dataset")
    more = [row(Teacher, "more_teachers", pk, "architecture", "dataset") for pk in plan.more_teachers]
    parts.more_teachers = [teacher for teacher in more if teacher]
    parts.student = row(Student, "student", plan.student, "architecture")
    row(Run, "parent", plan.parent)
    parts.architecture = parts.student.architecture if parts.student else _architecture(plan, missing)
    parts.methods = Method.objects.in_bulk({term.method for term in plan.objective.terms})
    missing += [*_roles(plan), *_control_exists(plan, project)]
    if parts.dataset and parts.dataset.status == Dataset.Status.READY:
        parts.student_profile = profile(parts.architecture, parts.dataset)
        if teacher := parts.teacher:
            own = teacher.dataset.num_classes if own_classes(teacher, parts.dataset) else None
            parts.teacher_profile = profile(teacher.architecture, parts.dataset, own)
    return parts, missing


def _architecture(plan: Plan, missing: list[Problem]) -> Architecture | None:
    if plan.student:
        return None  # said already
    if not plan.architecture:
        student = plan.purpose != "teacher"
        text = _("no student is chosen.") if student else _("no teacher's network is chosen.")
        missing.append(Problem("architecture", "", text, _("Name an architecture, e.g. resnet8.")))
        return None
    found = Architecture.objects.filter(pk=plan.architecture).first()
    if found is None:
        keys = list(Architecture.objects.values_list("pk", flat=True))
        hint = closest(plan.architecture, keys) or _("Architectures appear once a worker has started.")
        missing.append(Problem("architecture", plan.architecture, _("there is no such architecture."), hint))
    return found


def _roles(plan: Plan) -> Iterator[Problem]:
    if plan.purpose == "distil" and plan.teacher is None:
        yield Problem(
            "teacher",
            None,
            _("no teacher is chosen."),
            _("Choose one, or run the student alone as a control."),
        )
    if plan.purpose != "distil" and plan.teacher is not None:
        yield Problem(
            "teacher",
            plan.teacher,
            _("a network trained alone has no teacher."),
            _("Leave it empty, or distil."),
        )
    if plan.more_teachers and plan.teacher is None:
        yield Problem(
            "more_teachers",
            len(plan.more_teachers),
            _("there is no first teacher."),
            _("Choose one, or leave it."),
        )


def _control_exists(plan: Plan, project: Project) -> Iterator[Problem]:
    if plan.purpose == "distil" and plan.control == "existing":
        runs = Run.objects.filter(project=project, purpose=Run.Purpose.CONTROL, dataset=plan.dataset)
        if plan.control_run is None or not runs.filter(pk=plan.control_run).exists():
            text = _("there is no such control on this dataset.")
            fix = _("Choose a control of the list, or run one.")
            yield Problem("control_run", plan.control_run, text, fix)


def profile(
    architecture: Architecture | None, dataset: Dataset, classes: int | None = None
) -> ArchitectureProfile | None:
    """The network at the dataset's input. Asked of a worker the first time; nobody waits for the answer."""
    if architecture is None or not dataset.height or not dataset.width or not dataset.channels:
        return None
    found, new = ArchitectureProfile.objects.get_or_create(
        architecture=architecture,
        num_classes=classes or dataset.num_classes,
        in_channels=dataset.channels,
        image_size=min(dataset.height, dataset.width),
    )
    if new:
        queue.send_profile(found)
    return found


def check(plan: Plan, user: User) -> list[Problem]:
    """Everything that is wrong or doubtful, in the order of the form."""
    try:
        parts, missing = gather(plan, user)
    except PlanError as error:
        return error.problems
    return [*missing, *plan_checks.all_of(parts), *_name_is_free(plan)]


def _name_is_free(plan: Plan) -> Iterator[Problem]:
    if plan.purpose == "teacher" and plan.name:
        taken = Teacher.objects.filter(project=plan.project, name__in=_names(plan, plan.name))
        for teacher in taken:
            text = _("a teacher of this project has this name.")
            yield Problem("name", teacher.name, text, _("Choose another name."))


def create(plan: Plan, owner: User) -> list[Run]:
    """The plan as queued runs: controls first, then a run a seed. PlanError where it cannot be done.

    A submission that has been here before gives back what it made then.
    """
    if made := _made_before(plan, owner):
        return made
    if problems := [problem for problem in check(plan, owner) if problem.level == "error"]:
        raise PlanError(problems)
    parts = gather(plan, owner)[0]
    try:
        with transaction.atomic():
            return _create(plan, parts, owner)
    except IntegrityError:  # the same submission, or a teacher of this name, at the same moment
        if made := _made_before(plan, owner):
            return made
        raise PlanError(
            [Problem("name", plan.name, _("it was taken a moment ago."), _("Choose another name."))]
        ) from None


def _made_before(plan: Plan, owner: User) -> list[Run]:
    if plan.submission is None:
        return []
    first = Run.objects.filter(project=plan.project, owner_id=owner.pk, submission=plan.submission).first()
    return [first] if first else []


def _create(plan: Plan, parts: Parts, owner: User) -> list[Run]:
    name = plan.name.strip() or plan_facts.propose_name(parts)
    experiment = _experiment(plan)
    runs: list[Run] = []
    for number, run_name in enumerate(_names(plan, name)):
        training = plan.training.model_copy(update={"seed": plan.training.seed + number})
        run = _blank(plan, parts, owner, experiment, training)
        run.name, run.purpose, run.teacher = run_name, plan.purpose, parts.teacher
        run.mixing = plan.mixing.model_dump() if plan.more_teachers else {}
        run.objective = _resolved(plan.objective, parts.methods)
        run.method_keys = "+".join(term.method for term in plan.objective.terms)
        run.parent_id = plan.parent
        run.submission = plan.submission if number == 0 else None
        if plan.purpose == "teacher":
            run.makes = _teacher_in_the_making(run)
        elif plan.purpose == "distil" and plan.control == "existing":
            run.control_id = plan.control_run
        elif plan.purpose == "distil" and plan.control == "run":
            run.control = equal_control(run) or _start(_control_for(plan, parts, owner, run), owner)
        runs.append(_start(run, owner, parts.more_teachers))
    return runs


def _experiment(plan: Plan) -> Experiment | None:
    """The group the runs belong to. Names differ by more than case."""
    name = plan.experiment.strip()
    if not name:
        return None
    group = Experiment.objects.filter(project=plan.project, name__iexact=name).first()
    return group or Experiment.objects.create(project_id=plan.project, name=name)


def _blank(plan: Plan, parts: Parts, owner: User, group: Experiment | None, training: Training) -> Run:
    assert parts.dataset is not None
    assert parts.architecture is not None
    return Run(
        project_id=plan.project,
        experiment=group,
        dataset=parts.dataset,
        architecture=parts.architecture,
        student=parts.student,
        frozen_stages=plan.frozen_stages,
        training=training.model_dump(),
        owner_id=owner.pk,
    )


def _start(run: Run, owner: User, more_teachers: Iterable[Teacher] = ()) -> Run:
    run.save()
    RunTeacher.objects.bulk_create(
        RunTeacher(run=run, teacher=teacher, place=place) for place, teacher in enumerate(more_teachers)
    )
    run_values.made(run)
    lifecycle.submit(run, owner)
    return run


def _control_for(plan: Plan, parts: Parts, owner: User, run: Run) -> Run:
    """The same student, budget and seed, without a teacher."""
    control = _blank(plan, parts, owner, run.experiment, Training(**run.training))
    control.name = f"{plan_facts.network(parts)} alone" + (
        f" · seed {control.training['seed']}" if plan.seeds > 1 else ""
    )
    control.purpose = Run.Purpose.CONTROL
    control.objective = alone(run.objective)
    return control


def equal_control(run: Run) -> Run | None:
    """A control that differs from the run in nothing but the teacher; a finished one before a running one."""
    alike = Run.objects.filter(
        project_id=run.project_id,
        purpose=Run.Purpose.CONTROL,
        dataset=run.dataset,
        architecture=run.architecture,
        frozen_stages=run.frozen_stages,
    ).exclude(status__in=[Run.Status.FAILED, Run.Status.CANCELLED, Run.Status.DRAFT])
    wanted = (Training(**run.training), Objective(**alone(run.objective)), _pretrained(run))
    equal = [
        control
        for control in alike.select_related("student").order_by("pk")
        # Read anew: what an earlier version stored lacks the fields that came later.
        if (Training(**control.training), Objective(**control.objective), _pretrained(control)) == wanted
    ]
    finished = [control for control in equal if control.status == Run.Status.SUCCEEDED]
    return next(iter(finished or equal), None)


def alone(objective: dict[str, Any]) -> dict[str, Any]:
    """The objective of the control: the task loss alone, smoothed and weighed alike."""
    same = {name: objective[name] for name in ("label_smoothing", "class_weights") if name in objective}
    return Objective(**same).model_dump()


def _pretrained(run: Run) -> bool:
    return run.student is not None and run.student.pretrained


def _resolved(objective: Objective, methods: dict[str, Method]) -> dict[str, Any]:
    """The objective with every default of its methods written out."""
    whole = objective.model_copy(deep=True)
    for term in whole.terms:
        term.params = with_defaults(methods[term.method].schema, term.params)
    return whole.model_dump()


def _names(plan: Plan, name: str) -> list[str]:
    if plan.seeds == 1:
        return [name]
    return [f"{name} · seed {plan.training.seed + number}" for number in range(plan.seeds)]


def _teacher_in_the_making(run: Run) -> Teacher:
    return Teacher.objects.create(
        project_id=run.project_id,
        name=run.name[:100],
        architecture=run.architecture,
        dataset=run.dataset,
        source=Teacher.Source.TRAINED,
        owner_id=run.owner_id,
    )
