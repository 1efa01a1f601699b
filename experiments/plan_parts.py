"""What the checks of a plan look at, and what they say."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

from django.utils.translation import gettext as _

from experiments.models import Architecture, ArchitectureProfile, Dataset, Method, Run, Student, Teacher
from worker.distill.spec import Mixing, Objective, Training


@dataclass(frozen=True)
class Problem:
    """`field` is the dotted path in the plan: training.epochs, objective.terms.0.params.temperature.

    An *error* keeps the plan from starting; a *warning* is said and does not.
    """

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
    training: Training = field(default_factory=Training)
    dataset: Dataset | None = None
    architecture: Architecture | None = None
    student: Student | None = None
    frozen_stages: int = 0
    teacher: Teacher | None = None
    more_teachers: list[Teacher] = field(default_factory=list)
    mixing: Mixing = field(default_factory=Mixing)
    methods: dict[str, Method] = field(default_factory=dict)
    student_profile: ArchitectureProfile | None = None
    teacher_profile: ArchitectureProfile | None = None

    @property
    def with_teacher(self) -> bool:
        return self.purpose == Run.Purpose.DISTIL

    @property
    def teachers(self) -> list[tuple[str, Teacher]]:
        """(field of the plan, teacher), the first one first."""
        first = [("teacher", self.teacher)] if self.teacher else []
        return [*first, *(("more_teachers", teacher) for teacher in self.more_teachers)]

    def needs(self, need: str) -> list[str]:
        """The objective's methods that need it: logits, features, labels, index or views."""
        found = [self.methods.get(term.method) for term in self.objective.terms]
        return list(dict.fromkeys(method.key for method in found if method and need in method.needs))


def own_classes(teacher: Teacher, dataset: Dataset) -> bool:
    """Whether a teacher answers another question than the dataset asks: answers cannot be compared."""
    theirs = teacher.dataset
    if theirs.pk == dataset.pk or not theirs.classes or not dataset.classes:
        return False
    return theirs.num_classes != dataset.num_classes or theirs.multi_label != dataset.multi_label


def layer_parameters(method: Method | None) -> dict[str, str]:
    """{parameter: student or teacher} of the parameters that name a layer, or several."""
    properties: dict[str, Any] = method.schema.get("properties", {}) if method else {}
    return {name: rule["layer_of"] for name, rule in properties.items() if "layer_of" in rule}


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


def closest(wrong: str, choices: list[str]) -> str:
    """A fix that offers what was probably meant."""
    near = difflib.get_close_matches(wrong, choices, n=3, cutoff=0.4)
    if not near:
        near = [choice for choice in choices if wrong and wrong.lower() in choice.lower()][:3]
    if near:
        return _("Did you mean %(names)s?") % {"names": ", ".join(near)}
    few = 0 < len(choices) <= 12
    return _("Choose one of %(names)s.") % {"names": ", ".join(choices)} if few else ""
