"""What a plan amounts to, in words: its formula, its name, the facts the form shows beside it."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments import plan_layers
from experiments.models import ArchitectureProfile
from experiments.plan_parts import Parts, layer_parameters, own_classes, parameters
from worker.distill.spec import Objective, Schedule, SpecError, Term, hinton, two_part

PRESETS = {
    "kd": gettext_lazy("Hinton KD"),
    "fitnet": gettext_lazy("FitNet + KD"),
    "two_part": gettext_lazy("Two-part"),
    "task": gettext_lazy("Task loss only"),
}
PRESET_HELP = {
    "kd": gettext_lazy("L = (1−α)·CE + α·KD: the teacher's softened outputs beside the labels."),
    "fitnet": gettext_lazy("L = (1−α)·CE + α·KD + hints from a hidden layer of the teacher."),
    "two_part": gettext_lazy(
        "L = α·L_feature + (1−α)·L_output: hidden layers through a learned map, then outputs."
    ),
    "task": gettext_lazy("L = CE: the labels alone."),
}
DEFAULT_ALPHA = {"kd": 0.9, "fitnet": 0.9, "two_part": 0.5, "task": 0.5}
SYMBOLS = {"temperature": "T", "alpha": "α", "beta": "β", "gamma": "γ"}


def preset(name: str, alpha: float | None = None, temperature: float = 4.0) -> Objective:
    """A classic objective; α is the share of the teacher. KeyError for a name that is not in PRESETS."""
    alpha = DEFAULT_ALPHA[name] if alpha is None else alpha
    match name:
        case "kd":
            return hinton(alpha, temperature)
        case "two_part":
            return two_part(alpha, temperature)
        case "fitnet":
            objective = hinton(alpha, temperature)
            objective.terms.append(Term(method="fitnet", weight=1.0))
            return objective
    return Objective()


def formula(objective: Objective | dict[str, Any]) -> str:
    """L = 0.1·CE + 0.9·KD(T=4)"""
    if isinstance(objective, dict):
        objective = Objective.model_validate(objective)
    pieces = [_product(objective.task_weight, "CE")] if objective.task_weight else []
    for term in objective.terms:
        inside = ", ".join(
            f"{SYMBOLS[key]}={value:g}"
            for key, value in term.params.items()
            if key in SYMBOLS and isinstance(value, (int, float))
        )
        label = term.method.upper() if len(term.method) <= 4 else term.method
        name = f"{label}({inside})" if inside else label
        pieces.append(_product(term.weight, name) + course(term.schedule))
    return "L = " + (" + ".join(pieces) or "0")


def course(schedule: Schedule) -> str:
    """How a weight moves, in short: ↗5 ep warms up over five epochs."""
    said = f"↗{schedule.warmup_epochs:g} ep" if schedule.warmup_epochs else ""
    if schedule.kind != "constant":
        said += f" →{schedule.final:g} {schedule.kind}"
    if schedule.stop_epoch is not None:
        said += f" until ep {schedule.stop_epoch:g}"
    return said + (" balanced" if schedule.balance else "")


def _product(weight: float, name: str) -> str:
    return name if weight == 1 else f"{round(weight, 6):g}·{name}"


def network(parts: Parts) -> str:
    """The student as people call it."""
    if parts.student:
        return parts.student.name
    return parts.architecture.key.rpartition("/")[2] if parts.architecture else "student"


def propose_name(parts: Parts) -> str:
    """resnet8 ← resnet56 · kd"""
    student = network(parts)
    dataset = f" on {parts.dataset.name}" if parts.dataset else ""
    if not parts.with_teacher:
        return f"{student}{dataset}" if parts.purpose == "teacher" else f"{student} alone{dataset}"
    teacher = " + ".join(teacher.name for _field, teacher in parts.teachers) or "teacher"
    methods = "+".join(term.method for term in parts.objective.terms) or "no term"
    return f"{student} ← {teacher} · {methods}"


def facts(parts: Parts) -> list[str]:
    """What is known to be right, each a line with a tick."""
    lines = []
    if parts.dataset and parts.dataset.classes:
        shape = f"{parts.dataset.channels}×{parts.dataset.height}×{parts.dataset.width}"
        text = _("%(dataset)s: %(n)s classes, images %(shape)s")
        words = {"dataset": parts.dataset.name, "n": parts.dataset.num_classes, "shape": shape}
        lines.append(text % words)
    if parts.teacher and parts.dataset and not own_classes(parts.teacher, parts.dataset):
        if parts.teacher.dataset.num_classes == parts.dataset.num_classes:
            lines.append(_("Teacher and dataset agree on %(n)s classes") % {"n": parts.dataset.num_classes})
    elif parts.teacher and not parts.needs("logits"):
        text = _("%(teacher)s has %(n)s classes of its own: its features teach")
        lines.append(text % {"teacher": parts.teacher.name, "n": parts.teacher.dataset.num_classes})
    if parts.teacher and parts.more_teachers and parts.needs("features"):
        text = _("Layers are compared with those of %(teacher)s; answers are mixed of all")
        lines.append(text % {"teacher": parts.teacher.name})
    if sizes := parameters(parts):
        student, teacher = sizes
        text = _("%(teacher)s → %(student)s parameters: %(ratio)s smaller")
        ratio = f"{teacher / student:.3g}×"
        lines.append(text % {"teacher": f"{teacher:,}", "student": f"{student:,}", "ratio": ratio})
    elif parts.student_profile and parts.student_profile.parameters:
        text = _("%(n)s parameters at this input")
        lines.append(text % {"n": f"{parts.student_profile.parameters:,}"})
    return [*lines, *pairs(parts)]


def pairs(parts: Parts) -> list[str]:
    """The layers a feature term will compare, where both networks have been profiled."""
    lines = []
    profiles = (parts.student_profile, parts.teacher_profile)
    waits = any(one and one.status == ArchitectureProfile.Status.WAITING for one in profiles)
    for term, found in zip(parts.objective.terms, term_pairs(parts), strict=True):
        if found:
            shown = [f"{plan_layers.shown(a)} ↔ {plan_layers.shown(b)}" for a, b in found]
            lines.append(f"{term.method}: {', '.join(shown)}")
        elif waits and layer_parameters(parts.methods.get(term.method)):
            lines.append(_("%(method)s: a worker is listing the layers") % {"method": term.method})
    return lines


def term_pairs(parts: Parts) -> list[plan_layers.Pairs]:
    """The pairs of layers of each term; none where it has no layers, or they cannot be told or paired."""
    nets = plan_layers.networks(parts)
    found: list[plan_layers.Pairs] = []
    for term in parts.objective.terms:
        try:
            found.append(plan_layers.pairs(term, parts.methods.get(term.method), nets) if nets else [])
        except SpecError:
            found.append([])  # the checks say why
    return found
