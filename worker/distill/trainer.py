"""The training loop: a student under a teacher, or a network alone. Read it from top to bottom.

train() = assemble() data, student, teachers, objective, optimiser → fit() stage by stage → conclude().
Everything random is a pure function of the seed and a counter, and a checkpoint holds the rest: a run that
was interrupted anywhere ends with the very weights an undisturbed one would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.distill import methods, objective, optim
from worker.distill.assemble import Run, Stage, assemble, optimizer
from worker.distill.batches import Batch, memory_format
from worker.distill.conclude import conclude, score
from worker.distill.data.augment import mix
from worker.distill.errors import Diverged, OutOfMemory, StopRequested
from worker.distill.evaluate import never
from worker.distill.events import Log, Phase, Reporter
from worker.distill.group import together
from worker.distill.keeping import Keeper, resume
from worker.distill.layers import Tap
from worker.distill.lessons import Lessons
from worker.distill.meter import Meter, Muted
from worker.distill.objective import Target, Values, Wanted
from worker.distill.runtime import describe_device, is_out_of_memory, memory_used, pick_device
from worker.distill.scale import ScaleWatch
from worker.distill.spec import RunSpec


def train(spec: RunSpec, report: Reporter, should_stop: Callable[[], bool] = never) -> dict[str, Any]:
    """The `train` command; its result's data. Raises SpecError, StopRequested, Diverged, OutOfMemory."""
    began = time.monotonic()
    device = pick_device(spec.device)
    step = 0
    try:
        with together(spec, device) as group:
            run = assemble(spec, device, report, group)
            lessons = Lessons(run, report, should_stop)
            resume(run, lessons, report)
            try:
                fit(run, lessons, report, should_stop)
                # The followers have done their share: one process measures.
                result = conclude(run, lessons, report, should_stop) if group.leads else {}
            finally:
                step = run.step
    except StopRequested:
        raise StopRequested(step) from None
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(spec.training.batch_size, str(device), memory_used(device)) from error
        raise
    return result | {"cache": lessons.summary(), "seconds": round(time.monotonic() - began, 3)}


# --- the loop


@dataclass(frozen=True)
class Part:
    """A stage while it runs: what its terms look at, and whether the student takes part."""

    stage: Stage
    wanted: Wanted
    student_tap: Tap
    with_student: bool


def fit(run: Run, lessons: Lessons, report: Reporter, should_stop: Callable[[], bool]) -> None:
    """Train to the end of the last stage. On a stop: a checkpoint of this very step, then StopRequested."""
    # fp16 finds the scale of its gradients by trying: a step whose gradients overflow is left out.
    tried = ["gradient norm"] if run.scaler.is_enabled() else []
    look = ScaleWatch(run.scaler, report).look
    total = run.epochs * run.steps
    kind = Meter if run.group.leads else Muted
    meter = kind(report, total_steps=total, epochs=run.epochs, overflowing=tried, look=look)
    keeper = Keeper(run, lessons, meter, report)
    for stage in run.stages:
        if over(run, stage):
            continue
        if stage.start and run.step == stage.start * run.steps:
            # The main part starts afresh: its momentum is not the first stage's.
            run.optimizer = optimizer(run.spec.training, run.student, run.loss)
        report(Phase(name=stage.name, detail=f"on {describe_device(run.device)}"))
        try:
            one_stage(run, stage, lessons, keeper, report, should_stop)
        except Diverged as error:
            error.last_good(run.saved)
            raise


def one_stage(
    run: Run,
    stage: Stage,
    lessons: Lessons,
    keeper: Keeper,
    report: Reporter,
    should_stop: Callable[[], bool],
) -> None:
    """The epochs of a stage that are still to do."""
    with part_of(run, stage) as part, lessons.about(stage, part.wanted):
        while not over(run, stage):
            try:
                one_epoch(run, part, lessons, keeper, should_stop)
                if not stage.prelude:
                    validate(run, keeper.meter, report, should_stop)
            except StopRequested:
                keeper.save()
                raise
            run.epoch, run.batch = run.epoch + 1, 0
            keeper.epoch_end(last=over(run, stage))


def over(run: Run, stage: Stage) -> bool:
    return run.epoch >= stage.start + stage.epochs or finished(run)


def finished(run: Run) -> bool:
    """Whether early stopping has ended the run."""
    return run.early_stop is not None and run.early_stop.stopped


@contextmanager
def part_of(run: Run, stage: Stage) -> Iterator[Part]:
    wanted = run.loss.wanted(stage.prelude)
    tap = Tap(run.student, sorted({*wanted.student, *wanted.student_vectors}))
    with tap:
        if wanted.student or wanted.student_vectors:
            _look_once(run)
        yield Part(stage, wanted, tap, not stage.prelude or run.loss.trains_student_first())


def _look_once(run: Run) -> None:
    """One forward before the first step. Tap copies what it does not know yet, and a copy changes the order
    in which gradients are summed: without this the first step after a resume would differ in the last bit.
    """
    with torch.no_grad():
        run.student.eval()(torch.zeros(1, *run.image, device=run.device))


def one_epoch(
    run: Run, part: Part, lessons: Lessons, keeper: Keeper, should_stop: Callable[[], bool]
) -> None:
    """The steps of the current epoch that are still to do."""
    run.student.train()
    for module in run.frozen:
        module.eval()
    run.loss.train()
    lessons.begin(run.epoch)
    accumulate, meter = run.spec.training.accumulate, keeper.meter
    local = run.epoch - part.stage.start
    for group in grouped(run.batches.epoch(local, start=run.batch * accumulate), accumulate):
        if run.group.any(should_stop()):
            raise StopRequested
        values = one_step(run, part, lessons, group)
        run.batch += 1
        meter.add(run.step, run.epoch, sum(len(batch.labels) for batch in group), values)
        keeper.mid_epoch()
    meter.flush(run.epoch)


def grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """So many batches at a time; the last group may be smaller."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def one_step(run: Run, part: Part, lessons: Lessons, group: list[Batch]) -> dict[str, Tensor | float]:
    """One optimiser step over a group of batches. Its values by series, the tensors unfetched."""
    run.optimizer.zero_grad(set_to_none=True)
    seen = []
    for batch in group:
        values, extra = objective_of(run, part, lessons, batch)
        run.scaler.scale(values.total / len(group)).backward()  # type: ignore[no-untyped-call]
        seen.append(reported(values, extra))
    rate, groups = rate_of(run, part.stage, run.step), run.optimizer.param_groups
    for settings in groups:
        settings["lr"] = rate
    measured = mean_of(seen) | {"lr": rate}
    parameters = [p for settings in groups for p in settings["params"]]
    run.group.average(parameters)
    if run.spec.training.clip_norm is not None:
        run.scaler.unscale_(run.optimizer)
        measured["gradient norm"] = optim.clip(parameters, run.spec.training.clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.ema is not None:
        run.ema.update(run.student)
    return measured


def objective_of(
    run: Run, part: Part, lessons: Lessons, batch: Batch
) -> tuple[Values, dict[str, Tensor | float]]:
    """Both networks' forward passes and the objective of one batch, and how well the student does on it."""
    stage = part.stage
    epoch = run.epoch - stage.start
    view = run.view(epoch)
    inputs, target = present(run, batch, view, epoch)
    rows = len(batch.labels)
    logits, ours = student_says(run, part, inputs, rows) if part.with_student else (inputs.new_empty(0), {})
    theirs = lessons.look(batch, inputs)
    strong = None
    if not stage.prelude and run.loss.needs("views"):
        twin = _laid_out(run, run.augment.strong(batch.images, batch.index, seed=view[0], view=view[1]))
        said, _ = student_says(run, part, twin, rows)
        strong = methods.Logits(said, lessons.look(batch, twin, strong=True)["logits"])
    step = methods.Step(
        labels=dominant(target),
        index=batch.index,
        student_logits=logits,
        teacher_logits=theirs.get("logits", inputs.new_empty(0)),
        student_features={path: ours[path] for path in part.wanted.student},
        teacher_features={path: theirs[f"feature:{path}"] for path in part.wanted.teacher},
        student_vectors=objective.pooled(ours, part.wanted.student_vectors),
        teacher_vectors={path: theirs[f"vector:{path}"] for path in part.wanted.teacher_vectors},
        strong=strong,
        task=run.loss.task,
        number=run.step - stage.start * run.steps,
        epoch=run.step / run.steps - stage.start,
        epochs=stage.epochs,
    )
    if stage.prelude:
        return run.loss.prelude(step), {}
    if run.loss.task == "multi-label":
        return run.loss(step, target), {"train/f1": objective.f1(logits, target.labels)}
    return run.loss(step, target), {"train/top1": objective.accuracy(logits, step.labels)}


def present(run: Run, batch: Batch, view: tuple[int, int], epoch: int) -> tuple[Tensor, Target]:
    """The batch as the networks see it: augmented, mixed if asked for, normalised."""
    training = run.spec.training
    if training.augment:
        inputs = run.augment(batch.images, batch.index, seed=view[0], view=view[1])
    else:
        inputs = run.augment.normalise(batch.images)
    target = Target(batch.labels)
    if training.mixup or training.cutmix:
        inputs, partner, share = mix(
            inputs,
            batch.index,
            seed=training.seed,
            view=epoch,
            mixup=training.mixup,
            cutmix=training.cutmix,
        )
        target = Target(batch.labels, batch.labels[partner], share)
    return _laid_out(run, inputs), target


def _laid_out(run: Run, inputs: Tensor) -> Tensor:
    """This process's share of the batch."""
    return run.group.mine(inputs).contiguous(memory_format=memory_format(run.device))


def dominant(target: Target) -> Tensor:
    """The labels of the larger part of each image, for methods that know one label a sample."""
    if target.partner is None or target.share is None:
        return target.labels
    larger = target.share >= 0.5
    return torch.where(larger if target.labels.ndim == 1 else larger[:, None], target.labels, target.partner)


def student_says(run: Run, part: Part, inputs: Tensor, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The student's logits (B, C) and the outputs of the tapped layers, in fp32, for the whole batch."""
    with run.autocast() or nullcontext():
        logits = run.student(inputs)
    features = {path: value.float() for path, value in part.student_tap.outputs.items()}
    whole = run.group.whole
    return whole(logits.float(), rows), {path: whole(value, rows) for path, value in features.items()}


def reported(values: Values, extra: dict[str, Tensor | float]) -> dict[str, Tensor | float]:
    """By series, the total first: a term that is not finite is named before the total it spoils."""
    return {
        "loss/total": values.total,
        **{f"loss/{name}": value for name, value in values.raw.items()},
        **extra,
        **{f"weight/{name}": value for name, value in values.weights.items()},
        **{f"dial/{name}": value for name, value in values.dials.items()},
    }


def mean_of(seen: list[dict[str, Tensor | float]]) -> dict[str, Tensor | float]:
    """Of the batches that make one step."""
    if len(seen) == 1:
        return seen[0]
    return {
        name: torch.stack([row[name].detach() for row in seen]).mean()  # type: ignore[union-attr]
        if isinstance(value, Tensor)
        else sum(float(row[name]) for row in seen) / len(seen)
        for name, value in seen[0].items()
    }


def rate_of(run: Run, stage: Stage, step: int) -> float:
    """The learning rate of the step with index `step`; constant in a first stage, as the authors have it."""
    if stage.prelude:
        return run.spec.training.learning_rate
    local = step - stage.start * run.steps
    return optim.learning_rate(run.spec.training, local, stage.epochs * run.steps, run.steps)


def validate(run: Run, meter: Meter, report: Reporter, should_stop: Callable[[], bool]) -> None:
    """Score the student (its moving average, if there is one) on the validation split at an epoch's end."""
    with run.ema.swapped(run.student) if run.ema is not None else nullcontext():
        scores = score(run, run.student, "val", should_stop)
        improved = run.early_stop is not None and run.early_stop.update(
            scores.score if run.spec.training.early_stop_metric == "score" else scores.loss
        )
        if improved:
            run.best = {name: t.detach().clone() for name, t in run.student.state_dict().items()}
    meter.point(run.step, scores.points("val"))
    if not math.isfinite(scores.loss):
        raise Diverged("val/loss", scores.loss, run.step, rate_of(run, run.stages[-1], run.step - 1))
    report(Log(text=f"Epoch {run.epoch + 1}/{run.epochs}: validation {scores.words()}."))
    if finished(run):
        patience = run.spec.training.early_stop
        report(Log(text=f"Stopped early: {patience} epochs without a better validation."))
