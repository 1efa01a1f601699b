"""A run as the engine is asked for it: every path absolute, nothing left to the environment."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from worker.distill.spec import Mixing, ModelRef, Objective, RunSpec, TeacherCache, Training

from .models import Dataset, Run, Teacher
from .plan_parts import own_classes


def attempt_folder(run: Run) -> Path:
    """A folder for each attempt: a worker thought dead cannot spoil its successor's files."""
    return run.folder / str(run.fence)


def build(run: Run) -> RunSpec:
    teachers = [_teacher(teacher, run.dataset) for teacher in run.teachers]
    return RunSpec(
        dataset=str(run.dataset.folder.absolute()),
        student=ModelRef(
            architecture=run.architecture_id,
            weights=None,
            pretrained=run.student.pretrained if run.student else False,
            frozen_stages=run.frozen_stages,
        ),
        teacher=teachers[0] if teachers else None,
        more_teachers=teachers[1:],
        mixing=Mixing.model_validate(run.mixing),
        training=Training.model_validate(run.training),
        objective=Objective.model_validate(run.objective),
        output=str(attempt_folder(run).absolute()),
        cache=_cache() if teachers else None,
        device="auto",
    )


def _teacher(teacher: Teacher, dataset: Dataset) -> ModelRef:
    return ModelRef(
        architecture=teacher.architecture_id,
        weights=str(teacher.weights_path.absolute()),
        pretrained=False,
        classes=teacher.dataset.num_classes if own_classes(teacher, dataset) else None,
    )


def _cache() -> TeacherCache | None:
    budget = settings.KDWEB_TEACHER_CACHE_BYTES
    folder = Path(settings.KDWEB_TEACHER_CACHE).absolute()
    return TeacherCache(folder=str(folder), budget=budget) if budget else None
