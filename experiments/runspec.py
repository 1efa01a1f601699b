"""A run as the engine is asked for it: every path absolute, nothing left to the environment."""

from __future__ import annotations

from pathlib import Path

from worker.distill.spec import ModelRef, Objective, RunSpec, Training

from .models import Run


def attempt_folder(run: Run) -> Path:
    """A folder for each attempt: a worker thought dead cannot spoil its successor's files."""
    return run.folder / str(run.fence)


def build(run: Run) -> RunSpec:
    teacher = run.teacher
    return RunSpec(
        dataset=str(run.dataset.folder.absolute()),
        student=ModelRef(
            architecture=run.architecture_id,
            weights=None,
            pretrained=run.student.pretrained if run.student else False,
        ),
        teacher=teacher
        and ModelRef(
            architecture=teacher.architecture_id,
            weights=str(teacher.weights_path.absolute()),
            pretrained=False,
        ),
        training=Training.model_validate(run.training),
        objective=Objective.model_validate(run.objective),
        output=str(attempt_folder(run).absolute()),
        device="auto",
    )
