"""Whether the teachers of a plan can teach what it asks: each alone, and all together."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.models import Dataset, Teacher
from experiments.plan_parts import Parts, Problem, own_classes


def teachers_are_ready(parts: Parts) -> Iterator[Problem]:
    for name, teacher in parts.teachers:
        if teacher.status == Teacher.Status.FAILED:
            yield Problem(
                name,
                teacher.name,
                f"this teacher failed: {teacher.error or 'no reason was recorded'}",
                "Choose a teacher that is ready, or train this one again.",
            )
        elif teacher.status != Teacher.Status.READY:
            yield Problem(
                name,
                teacher.name,
                "this teacher is still in the making.",
                "The run will wait in the queue until it is ready.",
                level="warning",
            )


def teachers_fit_dataset(parts: Parts) -> Iterator[Problem]:
    dataset = parts.dataset
    for name, teacher in parts.teachers:
        if dataset is None or teacher.dataset_id == dataset.pk:
            continue
        if teacher.dataset.classes and dataset.classes:
            yield from _answers(parts, name, teacher, dataset)
            yield from _images(name, teacher, dataset)


def _answers(parts: Parts, name: str, teacher: Teacher, dataset: Dataset) -> Iterator[Problem]:
    """Softened outputs can be compared only where both networks answer the same question."""
    theirs = teacher.dataset
    if not own_classes(teacher, dataset):
        if theirs.classes != dataset.classes:
            yield Problem(
                name,
                teacher.name,
                f"its {theirs.num_classes} classes (of {theirs.name}) are not named as in {dataset.name}.",
                "Make sure class 0 means the same in both.",
                level="warning",
            )
        return
    if not (compares := parts.needs("logits")):
        return  # features and relations say something whatever the classes
    verb = "compares" if len(compares) == 1 else "compare"
    yield Problem(
        name,
        teacher.name,
        f"it {_question(theirs)} (trained on {theirs.name}), but {dataset.name} has "
        f"{_classes(dataset)}; {' and '.join(compares)} {verb} their answers.",
        f"Choose a teacher for {dataset.name}, or only methods that compare features, such as fitnet.",
    )


def _question(dataset: Dataset) -> str:
    return f"tells {_classes(dataset)} apart"


def _classes(dataset: Dataset) -> str:
    return f"{dataset.num_classes} {'labels (several an image)' if dataset.multi_label else 'classes'}"


def _images(name: str, teacher: Teacher, dataset: Dataset) -> Iterator[Problem]:
    theirs = teacher.dataset
    if theirs.channels != dataset.channels:
        yield Problem(
            name,
            teacher.name,
            f"it reads {theirs.channels}-channel images, but {dataset.name} has {dataset.channels} channels.",
            f"Choose a teacher for {dataset.name}, or train one.",
        )
    elif (theirs.height, theirs.width) != (dataset.height, dataset.width):
        yield Problem(
            name,
            teacher.name,
            f"it was trained at {theirs.height}×{theirs.width} pixels, "
            f"but {dataset.name} has {dataset.height}×{dataset.width}.",
            "Expect a weaker teacher; one trained at this size is better.",
            level="warning",
        )


def teachers_go_together(parts: Parts) -> Iterator[Problem]:
    """Several teachers answer as one: p = Σ_k w_k p_k."""
    first, weights = parts.teacher, parts.mixing.weights
    if first is None or not parts.more_teachers:
        return
    for place, teacher in enumerate(parts.more_teachers):
        if teacher in [first, *parts.more_teachers[:place]]:
            fix = "Choose each teacher once; to let one count more, weigh them."
            yield Problem("more_teachers", teacher.name, "it is chosen twice.", fix)
        elif parts.dataset and _labels(teacher, parts.dataset) != _labels(first, parts.dataset):
            yield Problem(
                "more_teachers",
                teacher.name,
                f"it {_question(teacher.dataset)} (of {teacher.dataset.name}), the teacher {first.name} "
                f"{_classes(first.dataset)} (of {first.dataset.name}): their answers cannot be mixed.",
                "Choose teachers of one set of classes.",
            )
    if parts.mixing.kind == "weighted":
        count = 1 + len(parts.more_teachers)
        if len(weights) != count:
            fix = f"Give {count} numbers, the first teacher's first."
            text = f"there are {count} teachers and {len(weights)} weights."
            yield Problem("mixing.weights", _listed(weights), text, fix)
        elif not any(weights):
            fix = "Give at least one teacher a weight above 0."
            yield Problem("mixing.weights", _listed(weights), "every teacher's weight is 0.", fix)


def _labels(teacher: Teacher, dataset: Dataset) -> object:
    """What must agree: nothing where a teacher answers the dataset's own question."""
    if not own_classes(teacher, dataset):
        return None
    return teacher.dataset.classes, teacher.dataset.multi_label


def _listed(weights: list[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights) or "none"
