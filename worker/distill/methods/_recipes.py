"""Training recipes that several methods' papers share."""

from __future__ import annotations

from typing import Any

from worker.distill.spec import Objective, Preset, Term

# Tian et al. 2020 (RepDistiller) and every CIFAR-100 row of mdistiller: milestones at epochs 150, 180, 210.
CIFAR_100: dict[str, Any] = {
    "epochs": 240,
    "batch_size": 64,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": [0.625, 0.75, 0.875],
    "step_factor": 0.1,
}
CIFAR_100_LIGHT = CIFAR_100 | {"learning_rate": 0.01}  # MobileNetV2, ShuffleNetV1 and V2 students

IMAGENET: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 256,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": [0.3, 0.6, 0.9],
    "step_factor": 0.1,
}


_BLOCKS = ["block1", "block2", "block3", "block4"]
_NORMS = ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]  # before an activation that ends no stage
# (teacher, student) → the layers, of both, that RepDistiller and mdistiller compare before activations
BEFORE_ACTIVATIONS = {
    ("vgg13", "vgg8"): _BLOCKS,
    ("wrn-40-2", "wrn-16-2"): _NORMS,
    ("wrn-40-2", "wrn-40-1"): _NORMS,
}


def recipe(
    title: str, source: str, term: Term, training: dict[str, Any], *pair: str, task_weight: float = 1.0
) -> Preset:
    """One term beside the task loss. pair: teacher and student, where it is published for these two."""
    teacher, student = pair or ("", "")
    return Preset(
        title=title,
        source=source,
        teacher=teacher,
        student=student,
        objective=Objective(task_weight=task_weight, terms=[term]),
        training=training,
    )


def repdistiller(*terms: Term, flags: str) -> tuple[Preset, Preset]:
    """RepDistiller's CIFAR-100 recipe, cross-entropy plus the terms, for every pair of its two tables."""
    objective, source = Objective(terms=list(terms)), f"RepDistiller, README and train_student.py: {flags}"
    title = "CIFAR-100" + "".join(f" with {term.method}" for term in terms[1:])
    return (
        Preset(title=title, source=source, objective=objective, training=CIFAR_100),
        Preset(
            title=f"{title}, MobileNetV2 or ShuffleNet student",
            source=f"{source}; learning rate 0.01 for these students",
            objective=objective,
            training=CIFAR_100_LIGHT,
        ),
    )


def repdistiller_vgg(key: str, weight: float, flags: str) -> Preset:
    """Its VGG pair for methods that sum over stages: blocks 1 to 4, of which the last two share a size."""
    term = Term(method=key, weight=weight, params={"student_layers": _BLOCKS, "teacher_layers": _BLOCKS})
    return Preset(
        title="CIFAR-100, VGG-13 → VGG-8",
        source=f"RepDistiller, README, train_student.py and models/vgg.py: {flags}",
        teacher="vgg13",
        student="vgg8",
        objective=Objective(terms=[term]),
        training=CIFAR_100,
    )


def presets_before_activations(term: Term, source: str) -> list[Preset]:
    """The CIFAR-100 recipe for the pairs whose layers are not the stages' own outputs."""
    return [
        Preset(
            title=f"CIFAR-100, {teacher} → {student}",
            source=source,
            teacher=teacher,
            student=student,
            objective=Objective(
                terms=[term.model_copy(update={"params": {"student_layers": at, "teacher_layers": at}})]
            ),
            training=CIFAR_100,
        )
        for (teacher, student), at in BEFORE_ACTIVATIONS.items()
    ]
