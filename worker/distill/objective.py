"""total = task_weight · CE + Σ_i w_i · term_i, every term by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill import methods, spec
from worker.distill.errors import spec_error
from worker.distill.spec import SpecError


@dataclass(frozen=True)
class Weighted:
    name: str  # the method's key; kd_2 when it stands in the objective a second time
    weight: float
    method: methods.Method


class WeightedSum(nn.Module):
    """The objective of one run. Its modules are the methods' own parts, never the student's."""

    def __init__(self, objective: spec.Objective, terms: list[Weighted]) -> None:
        super().__init__()
        self.task_weight, self.label_smoothing = objective.task_weight, objective.label_smoothing
        self.terms = terms
        self.parts = nn.ModuleDict({term.name: term.method for term in terms})
        self.names = ["total", "ce", *(term.name for term in terms)]
        self.weights = {"ce": self.task_weight, **{term.name: term.weight for term in terms}}
        self.student_paths = sorted({p for term in terms for p in term.method.student_paths})
        self.teacher_paths = sorted({p for term in terms for p in term.method.teacher_paths})

    def forward(self, step: methods.Step) -> tuple[Tensor, list[Tensor]]:
        """The total, and the raw value of each of `names` (total first), all 0-dimensional."""
        ce = F.cross_entropy(step.student_logits.float(), step.labels, label_smoothing=self.label_smoothing)
        raw = [ce, *(term.method(step) for term in self.terms)]
        # A weight of zero takes the term out: it is reported, but nothing flows back through it.
        weighted = [w * value for w, value in zip(self.weights.values(), raw, strict=True) if w]
        total = sum(weighted[1:], start=weighted[0])
        return total, [total, *raw]


def build(objective: spec.Objective, pair: Callable[[], methods.Pair] | None) -> WeightedSum:
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
        try:
            method.setup(pair())
        except SpecError as error:
            path = f"objective.terms[{i}].params.{error.field}"
            raise SpecError(path, error.value, error.problem, error.fix) from error
        seen[term.method] += 1
        name = term.method if seen[term.method] == 1 else f"{term.method}_{seen[term.method]}"
        terms.append(Weighted(name, term.weight, method))
    return WeightedSum(objective, terms)


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
