"""total = task_weight · task_loss + Σ_i w_i(t) · term_i, every term by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill import methods, spec
from worker.distill.bridge import to_vector
from worker.distill.errors import spec_error
from worker.distill.methods import Step, TaskForm
from worker.distill.pairing import Layout, layout
from worker.distill.spec import Schedule, SpecError

BALANCE_MOMENTUM = 0.98  # of the moving sizes that balanced weights are made of: some fifty steps


@dataclass(frozen=True)
class Target:
    """What the task loss compares with: the labels, and under mixup a second one in a share of 1 − share."""

    labels: Tensor  # (B,), or (B, C) of zeros and ones
    partner: Tensor | None = None  # labels of the samples mixed in
    share: Tensor | None = None  # (B,) of the first


@dataclass(frozen=True)
class Weighted:
    name: str  # the method's key; kd_2 when it stands in the objective a second time
    weight: float
    schedule: Schedule
    method: methods.Method


@dataclass
class Values:
    """One step's objective. `raw` holds every term unweighted; `dials` what else moves."""

    total: Tensor
    raw: dict[str, Tensor]
    weights: dict[str, Tensor | float]
    dials: dict[str, Tensor | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """The layers the active terms look at: whole outputs, and pooled ones."""

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    student_vectors: dict[str, Layout]
    teacher_vectors: dict[str, Layout]


class WeightedSum(nn.Module):
    """The objective of one run. Its modules are the methods' own parts, never the student's."""

    sizes: Tensor

    def __init__(
        self,
        objective: spec.Objective,
        terms: list[Weighted],
        pair: methods.Pair | None,
        task: TaskForm,
        class_weights: Tensor | None,
    ) -> None:
        super().__init__()
        self.task_weight, self.label_smoothing = objective.task_weight, objective.label_smoothing
        self.task, self.task_name = task, {"single-label": "ce", "multi-label": "bce"}[task]
        self.terms, self.pair = terms, pair
        self.main = [term for term in terms if not term.method.prelude_only]
        self.parts = nn.ModuleDict({term.name: term.method for term in terms})
        self.register_buffer("class_weights", class_weights, persistent=False)
        # |task|, |term 1|, …: moving means, for the weights that keep a balance; 0: not seen yet
        self.register_buffer("sizes", torch.zeros(1 + len(self.main)))

    @property
    def prelude_epochs(self) -> int:
        """Length of the first stage: of the longest one any term asks for."""
        return max((t.method.prelude_epochs for t in self.terms if t.weight), default=0)

    def wanted(self, prelude: bool) -> Wanted:
        """What the first stage, or the main part, needs of the networks."""
        active = [t.method for t in (self._with_prelude() if prelude else self.main)]
        ours = active if not prelude else [m for m in active if m.prelude_only]
        return Wanted(
            student=tuple(sorted({p for m in ours for p in m.student_paths})),
            teacher=tuple(sorted({p for m in active for p in m.teacher_paths})),
            student_vectors=self._layouts("student", (p for m in ours for p in m.student_vectors)),
            teacher_vectors=self._layouts("teacher", (p for m in active for p in m.teacher_vectors)),
        )

    def needs(self, need: methods.Need) -> bool:
        return any(need in term.method.needs for term in self.main)

    def trains_student_first(self) -> bool:
        """Whether the first stage trains the student, or the methods' own parts alone."""
        return any(term.method.prelude_only for term in self._with_prelude())

    def forward(self, step: Step, target: Target) -> Values:
        """The main part's objective."""
        raw = {self.task_name: self.task_loss(step.student_logits, target)}
        if step.strong is not None:
            raw[self.task_name] = raw[self.task_name] + self.task_loss(step.strong.student, target)
        raw |= {term.name: term.method(step) for term in self.main}
        weights = self._weights(step, raw)
        # A weight of zero takes the term out: it is reported, but nothing flows back through it.
        weighted = [
            w * value
            for w, value in zip(weights.values(), raw.values(), strict=True)
            if isinstance(w, Tensor) or w
        ]
        # Where all weights are 0 (a warm-up's first step, say) the gradient is zero, but there is one.
        total = sum(weighted or [0 * raw[self.task_name]])
        assert isinstance(total, Tensor)
        return Values(total, raw, weights, self._dials(step))

    def prelude(self, step: Step) -> Values:
        """The first stage's objective. A weight counts where the stage trains the student."""
        active = [t for t in self._with_prelude() if step.epoch < t.method.prelude_epochs]
        raw = {term.name: term.method.prelude(step) for term in active}
        weights: dict[str, Tensor | float] = {
            t.name: t.weight if t.method.prelude_only else 1.0 for t in active
        }
        total = sum(weights[name] * value for name, value in raw.items())
        assert isinstance(total, Tensor)
        return Values(total, raw, weights)

    def task_loss(self, logits: Tensor, target: Target) -> Tensor:
        """Cross-entropy, or for multi-label the binary one, mean over samples (and labels); fp32."""
        logits = logits.float()
        if self.task == "multi-label":
            return self._binary(logits, target)
        if target.partner is None or target.share is None:
            return F.cross_entropy(
                logits, target.labels, weight=self._class_weights(), label_smoothing=self.label_smoothing
            )
        classes = logits.shape[1]
        share = target.share[:, None].to(logits)
        mixed = share * F.one_hot(target.labels, classes) + (1 - share) * F.one_hot(target.partner, classes)
        return F.cross_entropy(
            logits, mixed, weight=self._class_weights(), label_smoothing=self.label_smoothing
        )

    def _binary(self, logits: Tensor, target: Target) -> Tensor:
        truth = target.labels.to(logits)  # (B, C)
        if target.partner is not None and target.share is not None:
            share = target.share[:, None].to(logits)
            truth = share * truth + (1 - share) * target.partner.to(logits)
        smooth = truth * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=self._class_weights())

    def _class_weights(self) -> Tensor | None:
        weights = self.class_weights
        return weights if isinstance(weights, Tensor) else None

    def _weights(self, step: Step, raw: dict[str, Tensor]) -> dict[str, Tensor | float]:
        """Each weight at this step; a balanced one follows the moving sizes of term and task loss."""
        weights: dict[str, Tensor | float] = {self.task_name: self.task_weight}
        if any(term.schedule.balance for term in self.main):
            self._follow(raw)
        for i, term in enumerate(self.main, start=1):
            weight = term.weight * factor(term.schedule, step.epoch, step.epochs)
            weights[term.name] = weight * self._ratio(i) if term.schedule.balance else weight
        return weights

    def _ratio(self, i: int) -> Tensor:
        """Size of the task loss ÷ size of the i-th term; 1 while that is 0, in its warm-up say."""
        size = self.sizes[i]
        return torch.where(size > 0, self.sizes[0] / size.clamp_min(1e-12), 1.0)

    @torch.no_grad()
    def _follow(self, raw: dict[str, Tensor]) -> None:
        now = torch.stack([value.detach().float().abs() for value in raw.values()])
        moved = BALANCE_MOMENTUM * self.sizes + (1 - BALANCE_MOMENTUM) * now
        self.sizes.copy_(torch.where(self.sizes > 0, moved, now))

    def _dials(self, step: Step) -> dict[str, Tensor | float]:
        return {
            f"{term.name}/{name}": value
            for term in self.main
            for name, value in term.method.dials(step).items()
        }

    def _with_prelude(self) -> list[Weighted]:
        return [term for term in self.terms if term.weight and term.method.prelude_epochs]

    def _layouts(self, side: methods.Side, paths: Iterable[str]) -> dict[str, Layout]:
        wanted = sorted(set(paths))
        if not wanted:
            return {}
        assert self.pair is not None
        return {path: layout(self.pair.layer(side, path).shape, self.pair.image[1:]) for path in wanted}


def factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    """The schedule's factor on a weight, `epoch` epochs into a part of `epochs`."""
    if schedule.stop_epoch is not None and epoch >= schedule.stop_epoch:
        return 0.0
    done = min(epoch / epochs, 1.0)
    course = {"constant": 0.0, "linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2}[schedule.kind]
    value = 1 + (schedule.final - 1) * course
    return value * min(1.0, epoch / schedule.warmup_epochs) if schedule.warmup_epochs else value


def pooled(outputs: dict[str, Tensor], layouts: dict[str, Layout]) -> dict[str, Tensor]:
    """The pooled ones (B, C) among a forward's outputs."""
    return {path: to_vector(how, outputs[path]) for path, how in layouts.items()}


def build(
    objective: spec.Objective,
    pair: Callable[[], methods.Pair] | None,
    task: TaskForm = "single-label",
    class_weights: Tensor | None = None,
) -> WeightedSum:
    """Check an objective and set its methods up. `pair`: None when there is no teacher."""
    if not objective.task_weight and not any(term.weight for term in objective.terms):
        fix = "Give the task loss or a term a weight above 0."
        raise SpecError("objective.task_weight", 0, "every weight is 0: there is nothing to learn.", fix)
    terms: list[Weighted] = []
    seen: Counter[str] = Counter()
    for i, term in enumerate(objective.terms):
        method = _create(term, f"objective.terms[{i}]")
        if pair is None:
            fix = "Choose a teacher, or remove the terms to train the network alone."
            raise SpecError(f"objective.terms[{i}].method", term.method, "the method needs a teacher.", fix)
        _suits(method, term.method, pair(), f"objective.terms[{i}].method")
        try:
            method.setup(pair())
        except SpecError as error:
            path = f"objective.terms[{i}].params.{error.field}"
            raise SpecError(path, error.value, error.problem, error.fix) from error
        seen[term.method] += 1
        name = term.method if seen[term.method] == 1 else f"{term.method}_{seen[term.method]}"
        terms.append(Weighted(name, term.weight, term.schedule, method))
    found = WeightedSum(objective, terms, pair() if pair else None, task, class_weights)
    if not objective.task_weight and not any(term.weight for term in found.main):
        fix = "Give the task loss a weight above 0: these methods only prepare the student."
        raise SpecError("objective.task_weight", 0, "after the first stage nothing is left to learn.", fix)
    return found


def _suits(method: methods.Method, key: str, pair: methods.Pair, field: str) -> None:
    """SpecError unless the method has a form for this task and this teacher's answers."""
    if pair.task not in method.task_forms:
        fix = "Choose a method with a form for it, e.g. kd, or one that compares features."
        raise SpecError(field, key, f"the method has no form for {pair.task} data.", fix)
    if "logits" in method.needs and pair.teacher_classes not in (None, pair.num_classes):
        problem = (
            f"it compares answers, but the teacher knows {pair.teacher_classes} classes of its own and the "
            f"dataset has {pair.num_classes}."
        )
        raise SpecError(field, key, problem, "Choose a method that compares features, e.g. fitnet or sp.")


def _create(term: spec.Term, path: str) -> methods.Method:
    try:
        kind = methods.get(term.method)
    except SpecError as error:
        raise SpecError(f"{path}.method", error.value, error.problem, error.fix) from error
    try:
        return kind(kind.Params.model_validate(term.params))
    except ValidationError as error:
        raise spec_error(error, f"{path}.params") from error


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the batch whose likeliest class is the label; stays on the device."""
    return (logits.detach().argmax(1) == labels).to(torch.float32).mean()


def f1(logits: Tensor, labels: Tensor) -> Tensor:
    """Micro-averaged F1 of the batch at a threshold of one half; stays on the device."""
    said, true = logits.detach() > 0, labels > 0
    return 2 * (said & true).sum() / (said.sum() + true.sum()).clamp_min(1)
