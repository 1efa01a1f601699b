"""One teacher or several as one, and what a batch's teacher says: computed, or looked up in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.layers import Tap
from worker.distill.methods import TaskForm
from worker.distill.objective import Wanted, pooled
from worker.distill.spec import Mixing, SpecError

Outputs = dict[str, Tensor]  # "logits", "feature:<path>" (B, …), "vector:<path>" (B, C)


class Teachers(nn.Module):
    """x → the teachers' common logits (B, C). Features are the first one's."""

    def __init__(self, members: Sequence[nn.Module], mixing: Mixing, task: TaskForm) -> None:
        super().__init__()
        if mixing.kind == "weighted" and len(mixing.weights) != len(members):
            fix = f"Give {len(members)} weights."
            raise SpecError("mixing.weights", mixing.weights, "it needs one weight a teacher.", fix)
        if mixing.kind == "weighted" and not any(mixing.weights):
            raise SpecError(
                "mixing.weights", mixing.weights, "every weight is 0.", "Give one a weight above 0."
            )
        self.members = nn.ModuleList(members)
        self.mixing, self.task = mixing, task

    @property
    def first(self) -> nn.Module:
        return self.members[0]

    def forward(self, x: Tensor) -> Tensor:
        answers = [member(x) for member in self.members]
        return answers[0] if len(answers) == 1 else self.mix(torch.stack(answers))

    def mix(self, logits: Tensor) -> Tensor:
        """(K, B, C) → (B, C): the logits whose probabilities are Σ_k w_k p_k, w of sum 1.

        entropy: w_k(b) in proportion to 1 − H(p_k(b)) / log C, so that a teacher who is sure counts more;
        where none is sure of anything, all count alike.
        """
        logits = logits.float()
        weights = self._weights(logits).log()  # (K, B or 1, 1)
        if self.task == "multi-label":
            yes = torch.logsumexp(F.logsigmoid(logits) + weights, 0)
            no = torch.logsumexp(F.logsigmoid(-logits) + weights, 0)
            return yes - no
        return torch.logsumexp(torch.log_softmax(logits, 2) + weights, 0)

    def _weights(self, logits: Tensor) -> Tensor:
        count = len(logits)
        match self.mixing.kind:
            case "mean":
                return logits.new_full((count, 1, 1), 1 / count)
            case "weighted":
                given = logits.new_tensor(self.mixing.weights)
                return (given / given.sum()).view(-1, 1, 1)
            case "entropy":
                sure = (1 - self._entropy(logits)).clamp_min(1e-6)  # (K, B)
                return (sure / sure.sum(0)).unsqueeze(2)

    def _entropy(self, logits: Tensor) -> Tensor:
        """(K, B), as a share of the largest possible."""
        if self.task == "multi-label":
            p = torch.sigmoid(logits)
            entropy = -(p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits))
            return entropy.mean(2) / math.log(2)
        log_p = torch.log_softmax(logits, 2)
        return -(log_p.exp() * log_p).sum(2) / math.log(max(logits.shape[2], 2))


class Look:
    """Inside `with Look(…) as look:` look(inputs) gives what the terms want, in fp32, without gradient."""

    def __init__(
        self,
        teachers: Teachers,
        wanted: Wanted,
        autocast: Callable[[], AbstractContextManager[object] | None] = lambda: None,
    ) -> None:
        self.teachers, self.wanted, self.autocast = teachers, wanted, autocast
        self.tap = Tap(teachers.first, sorted({*wanted.teacher, *wanted.teacher_vectors}))

    def __call__(self, inputs: Tensor) -> Outputs:
        with torch.inference_mode(), self.autocast() or nullcontext():
            logits = self.teachers(inputs)
        outputs: Outputs = {"logits": _ordinary(logits)}
        features = {path: _ordinary(value) for path, value in self.tap.outputs.items()}
        vectors = pooled(features, self.wanted.teacher_vectors)
        outputs |= {f"feature:{path}": features[path] for path in self.wanted.teacher}
        return outputs | {f"vector:{path}": vector for path, vector in vectors.items()}

    def __enter__(self) -> Self:
        self.tap.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.tap.__exit__(kind, error, where)


def _ordinary(x: Tensor) -> Tensor:
    """In fp32, and a tensor that autograd may save, which one made in inference mode is not."""
    return (x.clone() if x.is_inference() else x).detach().float()
