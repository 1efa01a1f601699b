"""What a run consists of, built from what was asked for: data, student, teachers, objective, optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from worker.distill import checkpoint, methods, models, objective, optim
from worker.distill.batches import Batches, memory_format
from worker.distill.data import prepared
from worker.distill.data.augment import Augment
from worker.distill.events import Log, Phase, Reporter
from worker.distill.group import Group, share_batch_norm
from worker.distill.layers import meta_forward, trace
from worker.distill.pairing import stages
from worker.distill.runtime import seed_everything
from worker.distill.spec import ModelRef, RunSpec, SpecError, Training
from worker.distill.teachers import Teachers


@dataclass(frozen=True)
class Stage:
    """A part of the run with its own objective; epochs are counted over all parts."""

    name: str
    start: int  # its first epoch
    epochs: int
    prelude: bool = False


@dataclass
class Run:
    """What a run consists of, and how far it is."""

    spec: RunSpec
    device: torch.device
    data: prepared.Prepared
    batches: Batches
    augment: Augment
    student: nn.Module
    frozen: list[nn.Module]  # parts of the student that keep their weights and statistics
    teachers: Teachers | None
    loss: objective.WeightedSum
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # passes everything through unless the precision is fp16
    ema: optim.Ema | None
    early_stop: optim.EarlyStop | None
    group: Group = field(default_factory=Group)
    best: dict[str, Tensor] = field(default_factory=dict)  # the student's weights at its best validation
    epoch: int = 0  # epochs finished, validation included
    batch: int = 0  # steps of the current epoch finished
    saved: int | None = None  # step of the newest checkpoint

    @property
    def stages(self) -> list[Stage]:
        first, training = self.loss.prelude_epochs, self.spec.training
        main = Stage("training", first, training.epochs)
        return [Stage("first stage", 0, first, prelude=True), main] if first else [main]

    @property
    def epochs(self) -> int:
        return self.loss.prelude_epochs + self.spec.training.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-self.batches.steps // self.spec.training.accumulate)

    @property
    def step(self) -> int:
        return self.epoch * self.steps + self.batch

    @property
    def image(self) -> tuple[int, int, int]:
        return self.data.meta.channels, self.data.meta.height, self.data.meta.width

    def view(self, epoch: int) -> tuple[int, int]:
        """(seed, number) of the augmented view that every sample has in an epoch of a stage.

        With a fixed number of views they are the same for every run, whatever its seed: a teacher's outputs
        on them can be shared.
        """
        views = self.spec.training.views
        return (0, epoch % views) if views else (self.spec.training.seed, epoch)

    def autocast(self) -> torch.autocast | None:
        """A fresh context for the forward passes; None in full precision."""
        if self.spec.training.precision == "fp32":
            return None
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.spec.training.precision]
        return torch.autocast(self.device.type, dtype)


def assemble(spec: RunSpec, device: torch.device, report: Reporter, group: Group | None = None) -> Run:
    """Data, student, teachers, objective, optimiser."""
    group = group or Group()
    training = spec.training
    _check(training)
    report(Phase(name="data"))
    data = prepared.load(spec.dataset)
    batches = Batches(data.split("train"), training.batch_size, training.seed, device)

    # The student first: under one seed it starts from the same weights with a teacher and without.
    report(Phase(name="model", detail=spec.student.architecture))
    _answers_the_dataset(spec.student, data.meta)
    seed_everything(training.seed)
    student = network(spec.student, data.meta, device, "student")
    teachers = _teachers(spec, data.meta, device, report)
    pair = _pair(spec, student, teachers, data)
    weights = class_weights(data, device) if spec.objective.class_weights == "balanced" else None
    loss = objective.build(spec.objective, pair, data.meta.task, weights).to(device)
    _views_are_whole(loss, training)
    student, frozen = _to_train(spec, student, loss, data.meta, device, group)
    run = Run(
        spec=spec,
        device=device,
        data=data,
        batches=batches,
        augment=Augment(data.meta),
        student=student,
        frozen=frozen,
        teachers=teachers,
        loss=loss,
        optimizer=optimizer(training, student, loss),
        scaler=torch.amp.GradScaler(device.type, enabled=training.precision == "fp16"),
        ema=optim.Ema(student, training.ema_decay) if training.ema_decay else None,
        early_stop=optim.EarlyStop(training.early_stop, training.early_stop_metric)
        if training.early_stop
        else None,
        group=group,
    )
    seed_everything(training.seed)  # dropout draws alike, whatever the teacher and the methods drew
    return run


def _check(training: Training) -> None:
    if training.warmup_epochs >= training.epochs:
        fix = f"Make it less than training.epochs ({training.epochs})."
        raise SpecError("training.warmup_epochs", training.warmup_epochs, "warm-up fills the whole run.", fix)


def _answers_the_dataset(student: ModelRef, meta: prepared.Meta) -> None:
    if student.classes not in (None, len(meta.classes)):
        problem = f"the student learns the dataset's classes, of which there are {len(meta.classes)}."
        raise SpecError("student.classes", student.classes, problem, "Leave it empty.")


def _one_is_a_batch(student: nn.Module, frozen: list[nn.Module], meta: prepared.Meta) -> None:
    """SpecError where a batch norm in training sees one number a channel, which has no variance."""
    for layer in trace(student, meta.channels, (meta.height, meta.width)):
        norm = student.get_submodule(layer.path)
        trains = isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm not in frozen
        if trains and math.prod(layer.shape[1:]) == 1:
            problem = f"the batch norm {layer.path} sees one pixel of each image: of one image no variance."
            raise SpecError("training.batch_size", 1, problem, "Make it 2 or more.")


def _to_train(
    spec: RunSpec,
    trunk: nn.Module,
    loss: objective.WeightedSum,
    meta: prepared.Meta,
    device: torch.device,
    group: Group,
) -> tuple[nn.Module, list[nn.Module]]:
    """The network that the run trains, and its parts that keep their weights and statistics."""
    student = _placed(_grafted(loss, trunk), device)
    if group.size > 1:
        share_batch_norm(student)  # puts other modules in place, so before any is frozen
    frozen = freeze(trunk, spec.student.frozen_stages, meta)
    if spec.training.batch_size == group.size == 1:
        _one_is_a_batch(trunk, frozen, meta)
    return student, frozen


def _grafted(loss: objective.WeightedSum, student: nn.Module) -> nn.Module:
    """The network to train: the student, or what one of the methods makes of it."""
    for term in loss.terms:
        grown = term.method.graft(student)
        if grown is not student:
            _follow(loss, term, student, grown)
            return grown
    return student


def _follow(
    loss: objective.WeightedSum, rebuilder: objective.Weighted, student: nn.Module, grown: nn.Module
) -> None:
    """The other terms look at their layers where the rebuilt network has them. SpecError if it has not."""
    assert loss.pair is not None
    before, loss.pair = loss.pair, replace(loss.pair, student=grown)
    place = next(path for path, module in grown.named_modules() if module is student)
    for k, other in enumerate(loss.terms):
        if other is rebuilder:
            continue
        field = f"objective.terms[{k}].method"
        if type(other.method).graft is not methods.Method.graft:
            problem = f"it rebuilds the student, which {rebuilder.name} does already."
            raise SpecError(field, other.name, problem, "Keep one of them.")
        for name in ("student_paths", "student_vectors"):
            paths = getattr(other.method, name)
            for path in paths:
                if not _is_kept(before, path, loss.pair, f"{place}.{path}"):
                    problem = f"it looks at the student's layer {path}, which {rebuilder.name} takes out."
                    raise SpecError(field, other.name, problem, "Name a layer before it.")
            setattr(other.method, name, tuple(f"{place}.{path}" for path in paths))


def _is_kept(before: methods.Pair, path: str, after: methods.Pair, moved: str) -> bool:
    try:
        old, new = before.layer("student", path), after.layer("student", moved)
    except SpecError:
        return False
    return (old.kind, old.shape) == (new.kind, new.shape)


def _views_are_whole(loss: objective.WeightedSum, training: Training) -> None:
    """A mixed image has no strongly augmented twin."""
    if loss.needs("views") and (training.mixup or training.cutmix):
        field_ = "mixup" if training.mixup else "cutmix"
        value = getattr(training, field_)
        problem = "a method of the objective compares two views of each image, which mixing would blend."
        raise SpecError(f"training.{field_}", value, problem, "Set it to 0.")


def network(ref: ModelRef, meta: prepared.Meta, device: torch.device, field: str) -> nn.Module:
    """A network for this dataset, on the device, with the weights asked for."""
    classes = ref.classes or len(meta.classes)
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
    return _placed(model, device)


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    placed: nn.Module = model.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    return placed


def _teachers(spec: RunSpec, meta: prepared.Meta, device: torch.device, report: Reporter) -> Teachers | None:
    if spec.teacher is None:
        if spec.more_teachers:
            count = len(spec.more_teachers)
            raise SpecError("more_teachers", count, "there is no first teacher.", "Give `teacher` too.")
        return None
    members = []
    for number, ref in enumerate([spec.teacher, *spec.more_teachers]):
        name = "teacher" if number == 0 else f"more_teachers[{number - 1}]"
        report(Phase(name="teacher", detail=ref.architecture))
        members.append(network(ref, meta, device, name))
        if ref.weights is None and not ref.pretrained:
            text = "The teacher has no weights trained on this dataset: its outputs are as good as random."
            report(Log(level="warning", text=text))
        if number and (ref.classes or len(meta.classes)) != (spec.teacher.classes or len(meta.classes)):
            problem = "the teachers have different classes."
            raise SpecError(f"{name}.classes", ref.classes, problem, "Choose teachers of one label set.")
    return Teachers(members, spec.mixing, meta.task).eval().requires_grad_(False)


def _pair(
    spec: RunSpec, student: nn.Module, teachers: Teachers | None, data: prepared.Prepared
) -> Callable[[], methods.Pair] | None:
    if teachers is None or spec.teacher is None:
        return None
    meta = data.meta
    pair = methods.Pair(
        student,
        teachers.first,
        (meta.channels, meta.height, meta.width),
        len(meta.classes),
        labels=torch.from_numpy(np.array(data.split("train").labels)),
        task=meta.task,
        seed=spec.training.seed,
        teacher_classes=spec.teacher.classes,
    )
    return lambda: pair


def class_weights(data: prepared.Prepared, device: torch.device) -> Tensor:
    """(C,) single-label: N / (C · N_c), of mean 1 over the samples. Multi-label: negatives ÷ positives.

    A class without samples is not counted in C and weighs 1: there is nothing of it to weigh.
    """
    labels = np.asarray(data.split("train").labels)
    if data.meta.task == "multi-label":
        positive = labels.sum(0, dtype=np.int64)
        weights = np.where(positive > 0, (len(labels) - positive) / np.maximum(positive, 1), 1.0)
        # A label of every image, or of one, must not be all that counts.
        weights = np.clip(weights, 1e-2, 1e2)
    else:
        counts = np.bincount(labels, minlength=len(data.meta.classes))
        seen = np.count_nonzero(counts)
        weights = np.where(counts > 0, len(labels) / (seen * np.maximum(counts, 1)), 1.0)
    return torch.tensor(weights, dtype=torch.float32, device=device)


def freeze(student: nn.Module, count: int, meta: prepared.Meta) -> list[nn.Module]:
    """Fix the first `count` stages: parameters and, in the modules given back, running statistics."""
    if not count:
        return []
    layers = trace(student, meta.channels, (meta.height, meta.width))
    found = stages(layers)
    if count > len(found):
        fix = f"Freeze at most {len(found)}: {', '.join(layer.path for layer in found)}."
        raise SpecError("student.frozen_stages", count, f"the network has {len(found)} stages.", fix)
    paths = [layer.path for layer in layers]
    before = paths[: paths.index(found[count - 1].path) + 1]
    parts = [student.get_submodule(path) for path in before]
    for part in [student, *parts]:
        for parameter in part.parameters(recurse=False):
            parameter.requires_grad_(False)
    return [part for part in parts if not list(part.children())]


def optimizer(training: Training, student: nn.Module, loss: objective.WeightedSum) -> torch.optim.Optimizer:
    """Weight decay on weights, not on norms and biases; the methods' own parameters apart."""
    groups = optim.parameter_groups("student", student, training.weight_decay)
    groups += optim.parameter_groups("methods", loss, training.weight_decay)
    return optim.optimizer(training, groups)
