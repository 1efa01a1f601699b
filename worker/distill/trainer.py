"""The training loop: a student under a teacher, or a network alone. Read it from top to bottom.

train() = assemble() data, student, teacher, objective, optimiser → fit() → conclude().
Everything random is a pure function of the seed and a counter, and a checkpoint holds the rest: a run that
was interrupted anywhere ends with the very weights an undisturbed one would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worker.distill import checkpoint, compression, methods, models, objective
from worker.distill.batches import Batch, Batches, memory_format
from worker.distill.data import prepared
from worker.distill.data.augment import Augment
from worker.distill.errors import Diverged, OutOfMemory, StopRequested
from worker.distill.evaluate import Scores, evaluate, never
from worker.distill.events import Log, Phase, Reporter
from worker.distill.layers import Tap, meta_forward
from worker.distill.meter import Meter
from worker.distill.runtime import describe_device, pick_device, seed_everything
from worker.distill.spec import ModelRef, RunSpec, SpecError, Training

CHECKPOINT_EVERY = 2.0  # seconds at least between epoch-end checkpoints; a short epoch is soon redone


@dataclass
class Run:
    """What a run consists of, and how far it is."""

    spec: RunSpec
    device: torch.device
    data: prepared.Prepared
    batches: Batches
    augment: Augment
    student: nn.Module
    teacher: nn.Module | None
    loss: objective.WeightedSum
    optimizer: torch.optim.Optimizer
    student_tap: Tap
    teacher_tap: Tap | None
    epoch: int = 0  # epochs finished, validation included
    batch: int = 0  # batches of the current epoch finished

    @property
    def step(self) -> int:
        return self.epoch * self.batches.steps + self.batch

    @property
    def image(self) -> tuple[int, int, int]:
        return self.data.meta.channels, self.data.meta.height, self.data.meta.width


def train(spec: RunSpec, report: Reporter, should_stop: Callable[[], bool] = never) -> dict[str, Any]:
    """The `train` command; its result's data. Raises SpecError, StopRequested, Diverged, OutOfMemory."""
    began = time.monotonic()
    device = pick_device(spec.device)
    try:
        run = assemble(spec, device, report)
        resume(run, report)
        fit(run, report, should_stop)
        result = conclude(run, report, should_stop)
    except StopRequested:
        raise StopRequested(run.step) from None
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(spec.training.batch_size, str(device)) from error
        raise
    return result | {"seconds": round(time.monotonic() - began, 3)}


# --- before


def assemble(spec: RunSpec, device: torch.device, report: Reporter) -> Run:
    """Data, student, teacher, objective, optimiser."""
    training = spec.training
    report(Phase(name="data"))
    data = prepared.load(spec.dataset)
    batches = Batches(data.split("train"), training.batch_size, training.seed, device)
    if training.warmup_epochs >= training.epochs:
        fix = f"Make it less than training.epochs ({training.epochs})."
        raise SpecError("training.warmup_epochs", training.warmup_epochs, "warm-up fills the whole run.", fix)

    # The student first: under one seed it starts from the same weights with a teacher and without.
    report(Phase(name="model", detail=spec.student.architecture))
    seed_everything(training.seed)
    student = network(spec.student, data.meta, device, "student")
    teacher = None
    if spec.teacher is not None:
        report(Phase(name="teacher", detail=spec.teacher.architecture))
        teacher = network(spec.teacher, data.meta, device, "teacher").eval().requires_grad_(False)
        if spec.teacher.weights is None:
            text = "The teacher has no weights trained on this dataset: its outputs are as good as random."
            report(Log(level="warning", text=text))

    loss = objective.build(spec.objective, _pair(student, teacher, data.meta)).to(device)
    seed_everything(training.seed)  # dropout draws alike, whatever the teacher and the methods drew
    return Run(
        spec=spec,
        device=device,
        data=data,
        batches=batches,
        augment=Augment(data.meta),
        student=student,
        teacher=teacher,
        loss=loss,
        optimizer=optimizer(training, student, loss),
        student_tap=Tap(student, loss.student_paths),
        teacher_tap=Tap(teacher, loss.teacher_paths) if teacher is not None else None,
    )


def network(ref: ModelRef, meta: prepared.Meta, device: torch.device, field: str) -> nn.Module:
    """A network for this dataset, on the device, with the weights asked for."""
    classes = len(meta.classes)
    try:
        model = models.build(
            ref.architecture,
            num_classes=classes,
            in_channels=meta.channels,
            image_size=min(meta.height, meta.width),
            pretrained=ref.pretrained and ref.weights is None,
        )
        if meta.height != meta.width:  # build() was told of a square
            meta_forward(model, meta.channels, (meta.height, meta.width))
    except SpecError as error:
        problem = (
            error.problem
            if error.field == "architecture"
            else f"{error.problem} ({error.field} = {error.value!r})"
        )
        raise SpecError(f"{field}.architecture", ref.architecture, problem, error.fix) from error
    if ref.weights is not None:
        checkpoint.load_weights(model, ref.weights, field=f"{field}.weights", num_classes=classes)
    placed: nn.Module = model.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    return placed


def _pair(
    student: nn.Module, teacher: nn.Module | None, meta: prepared.Meta
) -> Callable[[], methods.Pair] | None:
    if teacher is None:
        return None
    pair = methods.Pair(student, teacher, (meta.channels, meta.height, meta.width), len(meta.classes))
    return lambda: pair


def optimizer(training: Training, student: nn.Module, loss: objective.WeightedSum) -> torch.optim.Optimizer:
    """Weight decay on weights, not on norms and biases; the methods' own parameters apart."""
    groups: list[dict[str, Any]] = []
    for owner, module in (("student", student), ("methods", loss)):
        parameters = [p for p in module.parameters() if p.requires_grad]
        weights = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        groups.append({"name": owner, "params": weights, "weight_decay": training.weight_decay})
        groups.append({"name": f"{owner}, norms and biases", "params": others, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    match training.optimizer:
        case "sgd":
            nesterov = training.momentum > 0
            return torch.optim.SGD(
                groups, training.learning_rate, training.momentum, nesterov=nesterov, fused=fused
            )
        case "adam":
            return torch.optim.Adam(groups, training.learning_rate, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, training.learning_rate, fused=fused)


def learning_rate(training: Training, step: int, steps_per_epoch: int) -> float:
    """The rate of the step with index `step`, counted from 0."""
    total, warmup = training.epochs * steps_per_epoch, round(training.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    match training.schedule:
        case "constant":
            return training.learning_rate
        case "cosine":
            return training.learning_rate * (1 + math.cos(math.pi * done)) / 2
        case "step":
            return training.learning_rate * 0.1 ** ((step >= 0.5 * total) + (step >= 0.75 * total))


# --- the loop


def fit(run: Run, report: Reporter, should_stop: Callable[[], bool]) -> None:
    """Train to the end of the last epoch. On a stop: a checkpoint of this very step, then StopRequested."""
    epochs = run.spec.training.epochs
    meter = gauge(run, report)
    report(Phase(name="training", detail=f"on {describe_device(run.device)}"))
    saved = time.monotonic()
    with run.student_tap, run.teacher_tap or nullcontext():
        _look_once(run)
        try:
            while run.epoch < epochs:
                one_epoch(run, meter, should_stop)
                validate(run, meter, report, should_stop)
                run.epoch, run.batch = run.epoch + 1, 0
                if run.epoch == epochs or time.monotonic() - saved >= CHECKPOINT_EVERY:
                    save(run, report)
                    saved = time.monotonic()
        except StopRequested:
            meter.flush(run.epoch)
            save(run, report)
            raise


def gauge(run: Run, report: Reporter) -> Meter:
    """The run's meter: each term, raw, and the batch's accuracy at every step; the weights once a block."""
    return Meter(
        [*(f"loss/{name}" for name in run.loss.names), "train/top1"],
        {f"weight/{name}": weight for name, weight in run.loss.weights.items()},
        report,
        total_steps=run.spec.training.epochs * run.batches.steps,
        epochs=run.spec.training.epochs,
    )


def one_epoch(run: Run, meter: Meter, should_stop: Callable[[], bool]) -> None:
    """The steps of the current epoch that are still to do."""
    run.student.train()
    run.loss.train()
    for batch in run.batches.epoch(run.epoch, start=run.batch):
        if should_stop():
            raise StopRequested
        rate = learning_rate(run.spec.training, run.step, run.batches.steps)
        values = one_step(run, batch, rate)
        run.batch += 1
        meter.add(run.step, run.epoch, len(batch.labels), rate, values)
    meter.flush(run.epoch)


def _look_once(run: Run) -> None:
    """One forward before the first step. Tap copies what it does not know yet, and a copy changes the order
    in which gradients are summed: without this the first step after a resume would differ in the last bit.
    """
    if run.loss.student_paths:
        with torch.no_grad():
            run.student.eval()(torch.zeros(1, *run.image, device=run.device))


def one_step(run: Run, batch: Batch, rate: float) -> list[Tensor]:
    """One optimiser step. The objective's values (total first) and the batch's accuracy, unfetched."""
    training = run.spec.training
    if training.augment:
        inputs = run.augment(batch.images, batch.index, seed=training.seed, view=run.epoch)
    else:
        inputs = run.augment.normalise(batch.images)
    inputs = inputs.contiguous(memory_format=memory_format(run.device))

    student_logits = run.student(inputs)  # (B, C)
    teacher_logits, teacher_features = look(run, inputs)
    step = methods.Step(
        batch.labels,
        batch.index,
        student_logits,
        teacher_logits,
        run.student_tap.outputs,
        teacher_features,
    )
    total, values = run.loss(step)

    run.optimizer.zero_grad(set_to_none=True)
    total.backward()
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    return [*values, objective.accuracy(student_logits, batch.labels)]


def look(run: Run, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The teacher's logits and features. Nothing is asked of a teacher whom no term looks at."""
    if run.teacher is None or run.teacher_tap is None or not run.loss.terms:
        return inputs.new_empty(0), {}
    with torch.inference_mode():
        logits = run.teacher(inputs)
    # Autograd may not save an inference tensor; the copy is an ordinary one, and Tap copies the features.
    return logits.clone(), run.teacher_tap.outputs


def validate(run: Run, meter: Meter, report: Reporter, should_stop: Callable[[], bool]) -> None:
    """Score the student on the validation split at an epoch's end."""
    scores = score(run, run.student, "val", should_stop)
    top5 = {} if scores.top5 is None else {"val/top5": scores.top5}
    meter.point(run.step, {"val/top1": scores.top1, "val/loss": scores.loss, **top5})
    if not math.isfinite(scores.loss):
        rate = learning_rate(run.spec.training, run.step - 1, run.batches.steps)
        raise Diverged("val/loss", scores.loss, run.step, rate)
    text = f"Epoch {run.epoch + 1}/{run.spec.training.epochs}: validation top-1 {scores.top1:.2%}, "
    report(Log(text=text + f"loss {scores.loss:.4f}."))


def score(run: Run, model: nn.Module, split: str, should_stop: Callable[[], bool]) -> Scores:
    return evaluate(
        model,
        run.data.split(split),
        run.augment,
        num_classes=len(run.data.meta.classes),
        device=run.device,
        should_stop=should_stop,
    )


# --- checkpoints


def identity(run: Run) -> dict[str, Any]:
    """What makes two runs the same; files may have moved in between."""
    asked = run.spec.model_dump(mode="json", exclude={"dataset", "output", "device"})
    for ref in (asked["student"], asked["teacher"] or {}):
        ref.pop("weights", None)
    return asked | {"data": run.data.meta.fingerprint}


def save(run: Run, report: Reporter) -> None:
    """Everything the rest of the run depends on. Its position is (epoch, batch)."""
    state = {
        "identity": identity(run),
        "epoch": run.epoch,
        "batch": run.batch,
        "student": run.student.state_dict(),
        "methods": run.loss.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None,
    }
    report(checkpoint.save_resume(Path(run.spec.output), state, run.step))


def resume(run: Run, report: Reporter) -> None:
    """Go back to where the output folder's newest whole checkpoint was."""
    folder = Path(run.spec.output)
    folder.mkdir(parents=True, exist_ok=True)
    state = checkpoint.load_resume(folder, report)
    if state is None:
        return
    if state["identity"] != identity(run):
        fix = "Choose an empty folder, or remove the checkpoints in it."
        raise SpecError("output", run.spec.output, "the folder holds checkpoints of another run.", fix)
    run.epoch, run.batch = state["epoch"], state["batch"]
    run.student.load_state_dict(state["student"])
    run.loss.load_state_dict(state["methods"])
    run.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if state["rng_cuda"] is not None and run.device.type == "cuda":
        torch.cuda.set_rng_state(state["rng_cuda"], run.device)
    report(Log(text=f"Resumed at step {run.step}."))


# --- after


def conclude(run: Run, report: Reporter, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Export the student, measure it and its teacher with the same code."""
    report(checkpoint.save_student(Path(run.spec.output), run.student, run.step))
    split = run.data.evaluation_split
    report(Phase(name="evaluation", detail=f"on the {split} split"))
    measured: dict[str, Any] = {}
    for name, model in (("student", run.student), ("teacher", run.teacher)):
        measured[name] = None
        if model is not None:
            measured[name] = {**asdict(score(run, model, split, should_stop)), "split": split}
    report(Phase(name="compression"))
    for name, model in (("student", run.student), ("teacher", run.teacher)):
        if model is not None:
            measured[name] |= compression.measure(model, run.image, run.device)
    return {**measured, "steps": run.step, "device": describe_device(run.device)}


def is_out_of_memory(error: BaseException) -> bool:
    """Devices say it with a type; the CPU's allocator only in words."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(w in str(error) for w in words)
