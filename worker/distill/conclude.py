"""The end of a run: export the student, then measure it and its teachers with the same code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from worker.distill import checkpoint, compression
from worker.distill.assemble import Run
from worker.distill.evaluate import Scores, evaluate, judge, predict
from worker.distill.events import Phase, Reporter
from worker.distill.lessons import Lessons
from worker.distill.runtime import describe_device


def score(run: Run, model: nn.Module, split: str, should_stop: Callable[[], bool]) -> Scores:
    """A network on a split of the run's data."""
    return evaluate(
        model,
        run.data.split(split),
        run.augment,
        num_classes=len(run.data.meta.classes),
        device=run.device,
        task=run.data.meta.task,
        should_stop=should_stop,
    )


def conclude(run: Run, lessons: Lessons, report: Reporter, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """The result's data: "student" and "teacher" measured alike, "ensemble" and "teachers" of several."""
    with final_weights(run):
        report(checkpoint.save_student(Path(run.spec.output), run.student, run.step))
        split = run.data.evaluation_split
        report(Phase(name="evaluation", detail=f"on the {split} split"))
        answers = teachers_answers(run, lessons, split, should_stop)
        common = answers[-1] if answers else None  # of all teachers together
        ours = predict(
            run.student, run.data.split(split), run.augment, device=run.device, should_stop=should_stop
        )
        measured = {"student": judged(run, ours, split, common)}
        report(Phase(name="compression"))
        measured["student"] |= compression.measure(run.student, run.image, run.device, should_stop)
    return {
        **measured,
        **about_teachers(run, answers, split, should_stop),
        "stages": [
            {
                "name": stage.name,
                "first_step": stage.start * run.steps + 1,
                "last_step": min((stage.start + stage.epochs) * run.steps, run.step),
            }
            for stage in run.stages
        ],
        "steps": run.step,
        "device": describe_device(run.device),
    }


@contextmanager
def final_weights(run: Run) -> Iterator[None]:
    """What is measured and exported: the best weights of an early stop, the moving average, or the last."""
    if run.best:
        run.student.load_state_dict(run.best)
        yield
        return
    with run.ema.swapped(run.student) if run.ema is not None else nullcontext():
        yield


def teachers_answers(run: Run, lessons: Lessons, split: str, should_stop: Callable[[], bool]) -> list[Tensor]:
    """Logits (N, C) on a split: of each of several teachers, then of all together; of one, its own."""
    if run.teachers is None:
        return []
    members = list(run.teachers.members) if len(run.teachers.members) > 1 else []
    data = run.data.split(split)
    each = [predict(m, data, run.augment, device=run.device, should_stop=should_stop) for m in members]
    return [*each, lessons.answers(split)]


def judged(run: Run, logits: Tensor, split: str, teacher: Tensor | None) -> dict[str, Any]:
    """Scores as a dictionary. A teacher of other classes is no judge of the student's answers."""
    meta = run.data.meta
    comparable = teacher is not None and teacher.shape == logits.shape and not _own_classes(run)
    scores = judge(
        logits,
        run.data.split(split).labels,
        num_classes=len(meta.classes),
        task=meta.task,
        teacher_logits=teacher if comparable else None,
    )
    return {**asdict(scores), "split": split}


def about_teachers(
    run: Run, answers: list[Tensor], split: str, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """ "teacher": the first one. One of other classes has no accuracy here, only costs."""
    if run.teachers is None:
        return {"teacher": None}
    single = [
        ({} if _own_classes(run) else judged(run, logits, split, None))
        | compression.measure(model, run.image, run.device, should_stop)
        for model, logits in zip(run.teachers.members, answers, strict=False)
    ]
    if len(single) == 1:
        return {"teacher": single[0]}
    ensemble = {} if _own_classes(run) else judged(run, answers[-1], split, None)
    return {"teacher": single[0], "teachers": single, "ensemble": ensemble}


def _own_classes(run: Run) -> bool:
    """Whether the teachers answer another question than the student."""
    teacher = run.spec.teacher
    return teacher is not None and teacher.classes is not None
