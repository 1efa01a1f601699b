"""What can be wrong with a plan, found before it is queued. One function a question; each yields problems.

An *error* keeps the plan from starting; a *warning* is said and does not. Nothing here writes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaViolation

from experiments.forms.schema import explain
from experiments.models import (
    Architecture,
    ArchitectureProfile,
    Dataset,
    Method,
    Run,
    Student,
    Teacher,
    Worker,
)
from worker.distill.spec import Objective


@dataclass(frozen=True)
class Problem:
    """`field` is the dotted path in the plan: training.epochs, objective.terms.0.params.temperature."""

    field: str
    value: object
    message: str
    fix: str = ""
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.field} = {self.value!r}: {self.message}" + (f" {self.fix}" if self.fix else "")


@dataclass
class Parts:
    """What a plan names, as rows; None where it was left empty or does not exist."""

    purpose: str
    objective: Objective
    dataset: Dataset | None = None
    architecture: Architecture | None = None
    student: Student | None = None
    teacher: Teacher | None = None
    methods: dict[str, Method] = field(default_factory=dict)
    student_profile: ArchitectureProfile | None = None
    teacher_profile: ArchitectureProfile | None = None

    @property
    def with_teacher(self) -> bool:
        return self.purpose == Run.Purpose.DISTIL


def all_of(parts: Parts) -> Iterator[Problem]:
    """Every check, in the order of the form."""
    yield from dataset_is_ready(parts)
    yield from teacher_is_ready(parts)
    yield from teacher_fits_dataset(parts)
    yield from network_fits_image(parts)
    yield from student_is_smaller(parts)
    yield from objective_says_something(parts)
    yield from terms_are_known(parts)
    yield from layers_exist(parts)
    yield from somebody_works(parts)


def dataset_is_ready(parts: Parts) -> Iterator[Problem]:
    dataset = parts.dataset
    if dataset is None:
        return
    if dataset.status == Dataset.Status.FAILED:
        yield Problem(
            "dataset",
            dataset.name,
            f"its preparation failed: {dataset.error or 'no reason was recorded'}",
            "Repair it on its page, or choose another dataset.",
        )
    elif dataset.status != Dataset.Status.READY:
        yield Problem(
            "dataset", dataset.name, "it is still being prepared.", "Start the run once the dataset is ready."
        )


def teacher_is_ready(parts: Parts) -> Iterator[Problem]:
    teacher = parts.teacher
    if teacher is None:
        return
    if teacher.status == Teacher.Status.FAILED:
        yield Problem(
            "teacher",
            teacher.name,
            f"this teacher failed: {teacher.error or 'no reason was recorded'}",
            "Choose a teacher that is ready, or train this one again.",
        )
    elif teacher.status != Teacher.Status.READY:
        yield Problem(
            "teacher",
            teacher.name,
            "this teacher is still in the making.",
            "The run will wait in the queue until it is ready.",
            level="warning",
        )


def teacher_fits_dataset(parts: Parts) -> Iterator[Problem]:
    """Softened outputs can be compared only where both networks answer the same question."""
    teacher, dataset = parts.teacher, parts.dataset
    if teacher is None or dataset is None or teacher.dataset_id == dataset.pk:
        return
    theirs = teacher.dataset
    if not theirs.classes or not dataset.classes:
        return
    if theirs.num_classes != dataset.num_classes:
        yield Problem(
            "teacher",
            teacher.name,
            f"it tells {theirs.num_classes} classes apart (trained on {theirs.name}), "
            f"but {dataset.name} has {dataset.num_classes}.",
            f"Choose a teacher for {dataset.name}, or train one.",
        )
    elif theirs.classes != dataset.classes:
        yield Problem(
            "teacher",
            teacher.name,
            f"its {theirs.num_classes} classes (of {theirs.name}) are not named as in {dataset.name}.",
            "Make sure class 0 means the same in both.",
            level="warning",
        )
    if theirs.channels != dataset.channels:
        yield Problem(
            "teacher",
            teacher.name,
            f"it reads {theirs.channels}-channel images, but {dataset.name} has {dataset.channels} channels.",
            f"Choose a teacher for {dataset.name}, or train one.",
        )
    elif (theirs.height, theirs.width) != (dataset.height, dataset.width):
        yield Problem(
            "teacher",
            teacher.name,
            f"it was trained at {theirs.height}×{theirs.width} pixels, "
            f"but {dataset.name} has {dataset.height}×{dataset.width}.",
            "Expect a weaker teacher; one trained at this size is better.",
            level="warning",
        )


def network_fits_image(parts: Parts) -> Iterator[Problem]:
    dataset = parts.dataset
    if dataset is None or not dataset.height or not dataset.width:
        return
    size = min(dataset.height, dataset.width)
    networks = {"architecture": parts.architecture, "teacher": parts.teacher and parts.teacher.architecture}
    for name, architecture in networks.items():
        least = architecture.min_image_size if architecture else 0
        if architecture and size < least:
            yield Problem(
                name,
                architecture.key,
                f"the images of {dataset.name} are {dataset.height}×{dataset.width} pixels; "
                f"{architecture.key} needs at least {least}×{least}.",
                "Choose a network with fewer down-samplings, or a dataset with larger images.",
            )
    for name, profile in (("architecture", parts.student_profile), ("teacher", parts.teacher_profile)):
        if profile and profile.status == ArchitectureProfile.Status.FAILED:
            yield Problem(
                name, profile.architecture_id, f"it cannot be built for {dataset.name}: {profile.error}"
            )


def student_is_smaller(parts: Parts) -> Iterator[Problem]:
    sizes = parameters(parts)
    if not parts.with_teacher or sizes is None:
        return
    student, teacher = sizes
    if student >= teacher and parts.architecture and parts.teacher:
        yield Problem(
            "architecture",
            parts.architecture.key,
            f"the student has {student:,} parameters, its teacher {teacher:,}: nothing is compressed.",
            "Choose a smaller student, unless you mean it.",
            level="warning",
        )


def parameters(parts: Parts) -> tuple[int, int] | None:
    """(student, teacher): both measured at this input, else both as published. One of each would not compare:
    what is published is for three channels and another number of classes."""
    if parts.architecture is None or parts.teacher is None:
        return None
    ours, theirs = parts.student_profile, parts.teacher_profile
    of_teacher = parts.teacher.metrics.get("parameters") or (theirs.parameters if theirs else None)
    measured = (ours.parameters if ours else None, of_teacher)
    published = (parts.architecture.parameters, parts.teacher.architecture.parameters)
    for student, teacher in (measured, published):
        if student and teacher:
            return student, int(teacher)
    return None


def objective_says_something(parts: Parts) -> Iterator[Problem]:
    objective = parts.objective
    weights = [objective.task_weight, *(term.weight for term in objective.terms)]
    if not any(weights):
        yield Problem(
            "objective.task_weight",
            objective.task_weight,
            "every weight of the objective is 0: there is nothing to learn.",
            "Give the task loss or a term a weight above 0.",
        )
    if parts.with_teacher:
        if not any(term.weight for term in objective.terms) and objective.task_weight:
            yield Problem(
                "objective.terms",
                len(objective.terms),
                "no term listens to the teacher: this run equals its control.",
                "Add a term such as kd, or start it as a control.",
                level="warning",
            )
    elif objective.terms:
        yield Problem(
            "objective.terms",
            "+".join(term.method for term in objective.terms),
            "a network trained alone has no teacher to learn from.",
            "Remove the terms, or choose a teacher and distil.",
        )


def terms_are_known(parts: Parts) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, term in enumerate(parts.objective.terms):
        where = f"objective.terms.{number}"
        method = parts.methods.get(term.method)
        if method is None:
            yield Problem(
                f"{where}.method", term.method, "there is no such method.", closest(term.method, known())
            )
            continue
        if (said := f"{term.method} {sorted(term.params.items())}") in seen:
            yield Problem(
                f"{where}.method",
                term.method,
                "the same term stands in the objective twice.",
                "Remove one and add its weight to the other.",
                level="warning",
            )
        seen.add(said)
        if not method.available:
            yield Problem(
                f"{where}.method",
                term.method,
                f"the workers do not offer it at present: {method.problem or 'its file is missing.'}",
                "Choose another method, or repair the workers.",
            )
        for violation in Draft202012Validator(method.schema).iter_errors(term.params):
            yield _violation(where, term.params, violation)


def known() -> list[str]:
    return list(Method.objects.filter(available=True).values_list("key", flat=True))


def _violation(where: str, params: dict[str, Any], violation: SchemaViolation) -> Problem:
    problem, fix, name = explain(violation)
    return Problem(f"{where}.params.{name}".rstrip("."), params.get(name), problem, fix)


def layers_exist(parts: Parts) -> Iterator[Problem]:
    """Layer paths are checked where a worker has profiled the network; until then the engine checks them."""
    profiles = {"student": parts.student_profile, "teacher": parts.teacher_profile}
    for number, term in enumerate(parts.objective.terms):
        method = parts.methods.get(term.method)
        for name, side in layer_parameters(method).items():
            path, profile = term.params.get(name), profiles.get(side)
            if not path or profile is None or profile.status != ArchitectureProfile.Status.READY:
                continue
            paths = [layer["path"] for layer in profile.layers]
            if path not in paths:
                yield Problem(
                    f"objective.terms.{number}.params.{name}",
                    path,
                    f"{profile.architecture_id} has no layer of this path.",
                    closest(str(path), paths) or "Leave it empty to pair the layers by stage.",
                )


def layer_parameters(method: Method | None) -> dict[str, str]:
    """{parameter: student or teacher} of the parameters that name a layer."""
    properties = method.schema.get("properties", {}) if method else {}
    return {name: rule["layer_of"] for name, rule in properties.items() if "layer_of" in rule}


def somebody_works(parts: Parts) -> Iterator[Problem]:
    if not Worker.objects.alive().exists():
        yield Problem(
            "worker",
            0,
            "no worker is alive: the run will wait in the queue.",
            "Start one with `manage.py up` here, or the worker container on a GPU machine.",
            level="warning",
        )


def closest(wrong: str, choices: list[str]) -> str:
    """A fix that offers what was probably meant."""
    near = difflib.get_close_matches(wrong, choices, n=3, cutoff=0.4)
    if not near:
        near = [choice for choice in choices if wrong and wrong.lower() in choice.lower()][:3]
    if near:
        return f"Did you mean {', '.join(near)}?"
    return f"Choose one of {', '.join(choices)}." if 0 < len(choices) <= 12 else ""
