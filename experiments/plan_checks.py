"""What can be wrong with a plan, found before it is queued. One function a question; each yields problems.

An *error* keeps the plan from starting; a *warning* is said and does not. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext as _

from experiments import plan_teachers, plan_terms
from experiments.models import ArchitectureProfile, Dataset, Worker
from experiments.plan_parts import Parts, Problem, parameters


def all_of(parts: Parts) -> Iterator[Problem]:
    """Every check, in the order of the form."""
    yield from dataset_is_ready(parts)
    yield from plan_teachers.teachers_are_ready(parts)
    yield from plan_teachers.teachers_fit_dataset(parts)
    yield from plan_teachers.teachers_go_together(parts)
    yield from network_fits_image(parts)
    yield from student_is_smaller(parts)
    yield from freezing_fits(parts)
    yield from objective_says_something(parts)
    yield from plan_terms.terms_are_known(parts)
    yield from plan_terms.terms_have_a_form(parts)
    yield from plan_terms.schedules_fit(parts)
    yield from plan_terms.layers_fit(parts)
    yield from training_fits(parts)
    yield from views_are_whole(parts)
    yield from somebody_works(parts)


def dataset_is_ready(parts: Parts) -> Iterator[Problem]:
    dataset = parts.dataset
    if dataset is None:
        return
    if dataset.status == Dataset.Status.FAILED:
        yield Problem(
            "dataset",
            dataset.name,
            _("its preparation failed: %(reason)s")
            % {"reason": dataset.error or _("no reason was recorded")},
            _("Repair it on its page, or choose another dataset."),
        )
    elif dataset.status != Dataset.Status.READY:
        yield Problem(
            "dataset",
            dataset.name,
            _("it is still being prepared."),
            _("Start the run once the dataset is ready."),
        )


def network_fits_image(parts: Parts) -> Iterator[Problem]:
    dataset = parts.dataset
    if dataset is None or not dataset.height or not dataset.width:
        return
    size = min(dataset.height, dataset.width)
    networks = [(name, teacher.architecture) for name, teacher in parts.teachers]
    if parts.architecture:
        networks.insert(0, ("architecture", parts.architecture))
    for name, architecture in networks:
        least = architecture.min_image_size
        if size < least:
            yield Problem(
                name,
                architecture.key,
                _("the images of %(dataset)s are %(size)s pixels; %(network)s needs at least %(least)s.")
                % {
                    "dataset": dataset.name,
                    "size": f"{dataset.height}×{dataset.width}",
                    "network": architecture.key,
                    "least": f"{least}×{least}",
                },
                _("Choose a network with fewer down-samplings, or a dataset with larger images."),
            )
    for name, profile in (("architecture", parts.student_profile), ("teacher", parts.teacher_profile)):
        if profile and profile.status == ArchitectureProfile.Status.FAILED:
            text = _("it cannot be built for %(dataset)s: %(reason)s")
            words = {"dataset": dataset.name, "reason": profile.error}
            yield Problem(name, profile.architecture_id, text % words)


def student_is_smaller(parts: Parts) -> Iterator[Problem]:
    sizes = parameters(parts)
    if not parts.with_teacher or sizes is None:
        return
    student, teacher = sizes
    if student >= teacher and parts.architecture and parts.teacher:
        yield Problem(
            "architecture",
            parts.architecture.key,
            _("the student has %(student)s parameters, its teacher %(teacher)s: nothing is compressed.")
            % {"student": f"{student:,}", "teacher": f"{teacher:,}"},
            _("Choose a smaller student, unless you mean it."),
            level="warning",
        )


def objective_says_something(parts: Parts) -> Iterator[Problem]:
    objective = parts.objective
    weights = [objective.task_weight, *(term.weight for term in objective.terms)]
    if not any(weights):
        yield Problem(
            "objective.task_weight",
            objective.task_weight,
            _("every weight of the objective is 0: there is nothing to learn."),
            _("Give the task loss or a term a weight above 0."),
        )
    if parts.with_teacher:
        if not any(term.weight for term in objective.terms) and objective.task_weight:
            yield Problem(
                "objective.terms",
                len(objective.terms),
                _("no term listens to the teacher: this run equals its control."),
                _("Add a term such as kd, or start it as a control."),
                level="warning",
            )
    elif objective.terms:
        yield Problem(
            "objective.terms",
            "+".join(term.method for term in objective.terms),
            _("a network trained alone has no teacher to learn from."),
            _("Remove the terms, or choose a teacher and distil."),
        )


def training_fits(parts: Parts) -> Iterator[Problem]:
    training = parts.training
    if training.warmup_epochs >= training.epochs:
        yield Problem(
            "training.warmup_epochs",
            training.warmup_epochs,
            _("warm-up fills the whole run."),
            _("Make it less than the epochs (%(n)s).") % {"n": training.epochs},
        )
    images = (parts.dataset.info.get("sizes") or {}).get("train") if parts.dataset else None
    if parts.dataset and images and training.batch_size > images:
        yield Problem(
            "training.batch_size",
            training.batch_size,
            _("%(dataset)s has only %(n)s training images.")
            % {"dataset": parts.dataset.name, "n": f"{images:,}"},
            _("Use %(bound)s or less.") % {"bound": images},
        )
    if training.batch_size == 1:
        yield Problem(
            "training.batch_size",
            1,
            _(
                "with one image there is nothing to normalise over, and methods that compare images with "
                "each other learn nothing."
            ),
            _("Use 2 or more; accumulate where memory is short."),
            level="warning",
        )
    if training.views and not training.augment:
        yield Problem(
            "training.views",
            training.views,
            _("without augmentation all views of an image are the same."),
            _("Set it to 0, or switch augmentation on."),
            level="warning",
        )


def views_are_whole(parts: Parts) -> Iterator[Problem]:
    """A mixed image has no strongly augmented twin."""
    if not (methods := parts.needs("views")):
        return
    for name in ("mixup", "cutmix"):
        if value := getattr(parts.training, name):
            yield Problem(
                f"training.{name}",
                value,
                _("%(methods)s needs two views of each image, which mixing would blend.")
                % {"methods": _(" and ").join(methods)},
                _("Set it to 0, or remove the term."),
            )


def freezing_fits(parts: Parts) -> Iterator[Problem]:
    """Frozen weights should be worth keeping, and something must be left to train."""
    count, profile = parts.frozen_stages, parts.student_profile
    if not count:
        return
    if profile and profile.status == ArchitectureProfile.Status.READY and count > len(profile.stages):
        stages = ", ".join(stage["path"] for stage in profile.stages)
        yield Problem(
            "frozen_stages",
            count,
            _("%(network)s has %(n)s stages.")
            % {"network": profile.architecture_id, "n": len(profile.stages)},
            _("Freeze at most %(n)s: %(stages)s.") % {"n": len(profile.stages), "stages": stages},
        )
    elif not (parts.student and parts.student.pretrained):
        yield Problem(
            "frozen_stages",
            count,
            _("this student begins with random weights: frozen, they stay random."),
            _("Choose a saved student that begins with pretrained weights, or freeze nothing."),
            level="warning",
        )


def somebody_works(parts: Parts) -> Iterator[Problem]:
    if not Worker.objects.alive().exists():
        yield Problem(
            "worker",
            0,
            _("no worker is alive: the run will wait in the queue."),
            _("Start one with `manage.py up` here, or the worker container on a GPU machine."),
            level="warning",
        )
