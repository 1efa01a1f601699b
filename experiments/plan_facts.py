"""What a plan amounts to, in words: its formula, its name, the facts the form shows beside it."""

from __future__ import annotations

from typing import Any

from experiments.models import ArchitectureProfile
from experiments.plan_checks import Parts, layer_parameters, parameters
from worker.distill.spec import Objective, Term, hinton, two_part

PRESETS = {
    "kd": "Hinton KD",
    "fitnet": "FitNet + KD",
    "two_part": "Two-part",
    "task": "Task loss only",
}
PRESET_HELP = {
    "kd": "L = (1−α)·CE + α·KD: the teacher's softened outputs beside the labels.",
    "fitnet": "L = (1−α)·CE + α·KD + hints from a hidden layer of the teacher.",
    "two_part": "L = α·L_feature + (1−α)·L_output: hidden layers through a learned map, then outputs.",
    "task": "L = CE: the labels alone.",
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
        pieces.append(_product(term.weight, f"{label}({inside})" if inside else label))
    return "L = " + (" + ".join(pieces) or "0")


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
    teacher = parts.teacher.name if parts.teacher else "teacher"
    methods = "+".join(term.method for term in parts.objective.terms) or "no term"
    return f"{student} ← {teacher} · {methods}"


def facts(parts: Parts) -> list[str]:
    """What is known to be right, each a line with a tick."""
    lines = []
    if parts.dataset and parts.dataset.classes:
        shape = f"{parts.dataset.channels}×{parts.dataset.height}×{parts.dataset.width}"
        lines.append(f"{parts.dataset.name}: {parts.dataset.num_classes} classes, images {shape}")
    if parts.teacher and parts.dataset and parts.teacher.dataset.num_classes == parts.dataset.num_classes:
        lines.append(f"Teacher and dataset agree on {parts.dataset.num_classes} classes")
    if sizes := parameters(parts):
        student, teacher = sizes
        lines.append(f"{teacher:,} → {student:,} parameters: {teacher / student:.3g}× smaller")
    elif parts.student_profile and parts.student_profile.parameters:
        lines.append(f"{parts.student_profile.parameters:,} parameters at this input")
    return [*lines, *pairs(parts)]


def pairs(parts: Parts) -> list[str]:
    """The layers a feature term will compare, where both networks have been profiled."""
    lines = []
    for term in parts.objective.terms:
        names = layer_parameters(parts.methods.get(term.method))
        ours, theirs = parts.student_profile, parts.teacher_profile
        if not names or ours is None or theirs is None:
            continue
        if ArchitectureProfile.Status.WAITING in (ours.status, theirs.status):
            lines.append(f"{term.method}: a worker is listing the layers")
            continue
        chosen = {side: str(term.params.get(name) or "") for name, side in names.items()}
        paths = _paired(ours, theirs, chosen.get("student", ""), chosen.get("teacher", ""))
        if paths:
            lines.append(f"{term.method}: {_layer(ours, paths[0])} ↔ {_layer(theirs, paths[1])}")
        else:
            lines.append(f"{term.method}: layers are paired by stage")
    return lines


def _layer(profile: ArchitectureProfile, path: str) -> str:
    shapes = {layer["path"]: layer["shape"] for layer in [*profile.layers, *profile.stages]}
    return f"{path} ({'×'.join(map(str, shapes.get(path, ()))) or '?'})"


def _paired(
    ours: ArchitectureProfile, theirs: ArchitectureProfile, student: str, teacher: str
) -> tuple[str, str] | None:
    """What the engine will pair (its rule is `layers.propose_pair`), for networks whose stages are maps.

    The student's middle stage with the teacher's of its resolution, else of its relative depth; a layer
    that was chosen stays. None where the engine must be left to say.
    """
    if student and teacher:
        return student, teacher
    left, right = _pixels(ours), _pixels(theirs)
    if left is None or right is None:
        return None
    if student:
        return student, _match(left.get(student), 0.5, right)
    if teacher:
        return _match(right.get(teacher), 0.5, left), teacher
    stages = list(left)
    middle = len(stages) // 2
    depth = middle / (len(stages) - 1) if len(stages) > 1 else 0.5
    return stages[middle], _match(left[stages[middle]], depth, right)


def _pixels(profile: ArchitectureProfile) -> dict[str, int] | None:
    """H·W by path of the stages; None where they are not all square maps, channels first."""
    shapes = {stage["path"]: stage["shape"] for stage in profile.stages}
    if not shapes or any(len(shape) != 3 or shape[1] != shape[2] for shape in shapes.values()):
        return None
    return {path: shape[1] * shape[2] for path, shape in shapes.items()}


def _match(pixels: int | None, depth: float, others: dict[str, int]) -> str:
    same = [path for path, size in others.items() if size == pixels]
    return same[-1] if same else list(others)[round(depth * (len(others) - 1))]
