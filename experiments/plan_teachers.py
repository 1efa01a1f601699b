"""Whether the teachers of a plan can teach what it asks: each alone, and all together."""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from experiments.models import Dataset, Teacher
from experiments.plan_parts import Parts, Problem, own_classes


def teachers_are_ready(parts: Parts) -> Iterator[Problem]:
    for name, teacher in parts.teachers:
        if teacher.status == Teacher.Status.FAILED:
            yield Problem(
                name,
                teacher.name,
                _("this teacher failed: %(reason)s")
                % {"reason": teacher.error or _("no reason was recorded")},
                _("Choose a teacher that is ready, or train this one again."),
            )
        elif teacher.status != Teacher.Status.READY:
            yield Problem(
                name,
                teacher.name,
                _("this teacher is still in the making."),
                _("The run will wait in the queue until it is ready."),
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
                _("its %(n)s classes (of %(theirs)s) are not named as in %(ours)s.")
                % {"n": theirs.num_classes, "theirs": theirs.name, "ours": dataset.name},
                _("Make sure class 0 means the same in both."),
                level="warning",
            )
        return
    if not (compares := parts.needs("logits")):
        return  # features and relations say something whatever the classes
    text = ngettext(
        "it tells %(theirs)s apart (trained on %(data)s), but %(dataset)s has %(ours)s; %(methods)s compares "
        "their answers.",
        "it tells %(theirs)s apart (trained on %(data)s), but %(dataset)s has %(ours)s; %(methods)s compare "
        "their answers.",
        len(compares),
    )
    fix = _("Choose a teacher for %(dataset)s, or only methods that compare features, such as fitnet.")
    words = {
        "theirs": _classes(theirs),
        "data": theirs.name,
        "dataset": dataset.name,
        "ours": _classes(dataset),
        "methods": _(" and ").join(compares),
    }
    yield Problem(name, teacher.name, text % words, fix % {"dataset": dataset.name})


def _classes(dataset: Dataset) -> str:
    text = _("%(n)s labels (several an image)") if dataset.multi_label else _("%(n)s classes")
    return text % {"n": dataset.num_classes}


def _images(name: str, teacher: Teacher, dataset: Dataset) -> Iterator[Problem]:
    theirs = teacher.dataset
    if theirs.channels != dataset.channels:
        yield Problem(
            name,
            teacher.name,
            _("it reads %(theirs)s-channel images, but %(dataset)s has %(ours)s channels.")
            % {"theirs": theirs.channels, "dataset": dataset.name, "ours": dataset.channels},
            _("Choose a teacher for %(dataset)s, or train one.") % {"dataset": dataset.name},
        )
    elif (theirs.height, theirs.width) != (dataset.height, dataset.width):
        yield Problem(
            name,
            teacher.name,
            _("it was trained at %(theirs)s pixels, but %(dataset)s has %(ours)s.")
            % {
                "theirs": f"{theirs.height}×{theirs.width}",
                "dataset": dataset.name,
                "ours": f"{dataset.height}×{dataset.width}",
            },
            _("Expect a weaker teacher; one trained at this size is better."),
            level="warning",
        )


def teachers_go_together(parts: Parts) -> Iterator[Problem]:
    """Several teachers answer as one: p = Σ_k w_k p_k."""
    first, weights = parts.teacher, parts.mixing.weights
    if first is None or not parts.more_teachers:
        return
    for place, teacher in enumerate(parts.more_teachers):
        if teacher in [first, *parts.more_teachers[:place]]:
            fix = _("Choose each teacher once; to let one count more, weigh them.")
            yield Problem("more_teachers", teacher.name, _("it is chosen twice."), fix)
        elif parts.dataset and _labels(teacher, parts.dataset) != _labels(first, parts.dataset):
            yield Problem(
                "more_teachers",
                teacher.name,
                _(
                    "it tells %(theirs)s apart (of %(data)s), the teacher %(first)s %(ours)s (of "
                    "%(dataset)s): their answers cannot be mixed."
                )
                % {
                    "theirs": _classes(teacher.dataset),
                    "data": teacher.dataset.name,
                    "first": first.name,
                    "ours": _classes(first.dataset),
                    "dataset": first.dataset.name,
                },
                _("Choose teachers of one set of classes."),
            )
    if parts.mixing.kind == "weighted":
        count = 1 + len(parts.more_teachers)
        if len(weights) != count:
            fix = _("Give %(n)s numbers, the first teacher's first.") % {"n": count}
            text = _("there are %(teachers)s teachers and %(weights)s weights.")
            words = {"teachers": count, "weights": len(weights)}
            yield Problem("mixing.weights", _listed(weights), text % words, fix)
        elif not any(weights):
            fix = _("Give at least one teacher a weight above 0.")
            yield Problem("mixing.weights", _listed(weights), _("every teacher's weight is 0."), fix)


def _labels(teacher: Teacher, dataset: Dataset) -> object:
    """What must agree: nothing where a teacher answers the dataset's own question."""
    if not own_classes(teacher, dataset):
        return None
    return teacher.dataset.classes, teacher.dataset.multi_label


def _listed(weights: list[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights) or _("none")
