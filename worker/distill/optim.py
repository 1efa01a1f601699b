"""Optimisers, learning rates, gradient clipping, the moving average of the weights, early stopping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from worker.distill.runtime import import_torchvision
from worker.distill.spec import Training

Groups = list[dict[str, Any]]


def parameter_groups(owner: str, module: nn.Module, weight_decay: float) -> Groups:
    """Weight decay on weights, not on norms and biases. What does not train is left out."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {
            "name": owner,
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": weight_decay,
        },
        {
            "name": f"{owner}, norms and biases",
            "params": [p for p in parameters if p.ndim <= 1],
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def optimizer(training: Training, groups: Groups) -> torch.optim.Optimizer:
    """torch's SGD (Nesterov), Adam and AdamW; the others are timm's, by its names."""
    rate = training.learning_rate
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    match training.optimizer:
        case "sgd":
            return _sgd(groups, rate, training.momentum, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, rate, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, rate, fused=fused)
    import_torchvision()  # timm imports it, and would fail beside a torch it was not compiled for
    from timm.optim import create_optimizer_v2

    found: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=training.optimizer, lr=rate, momentum=training.momentum
    )
    return found


def _sgd(groups: Groups, rate: float, momentum: float, *, fused: bool) -> torch.optim.SGD:
    found = torch.optim.SGD(groups, rate, momentum, nesterov=momentum > 0, fused=fused)
    if momentum:
        # The fused step takes buffers for all parameters of a group or for none, but a term whose weight
        # grows from zero brings its own parameters later. Zeros come to the same as a missing buffer.
        for parameter in (p for group in groups for p in group["params"]):
            found.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return found


def learning_rate(training: Training, step: int, total: int, steps_per_epoch: int) -> float:
    """The rate of the step with index `step` (from 0) of `total`."""
    peak, warmup = training.learning_rate, round(training.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    match training.schedule:
        case "constant":
            return peak
        case "cosine":
            return peak * (1 + math.cos(math.pi * done)) / 2
        case "linear":
            return peak * (1 - done)
        case "step":
            passed = sum(step >= milestone * total for milestone in training.milestones)
            return peak * training.step_factor**passed


def clip(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients together down to `max_norm`; the norm they had."""
    return nn.utils.clip_grad_norm_(parameters, max_norm)


def largest(parameters: Iterable[Tensor]) -> float:
    """The largest absolute value of all; NaN where one is."""
    return float(torch.stack([p.detach().float().abs().max() for p in parameters]).max())


class Ema:
    """w̄ ← d·w̄ + (1−d)·w after each step, d = min(decay, (1+n)/(10+n)): early averages follow faster.

    Statistics of batch norms and other buffers are averages already: they are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.average = {name: p.detach().clone() for name, p in model.state_dict().items()}
        self.weights = {name for name, _ in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        state = model.state_dict()
        averaged = [name for name in state if name in self.weights]
        torch._foreach_lerp_(
            [self.average[name] for name in averaged], [state[name] for name in averaged], 1 - keep
        )
        for name in state.keys() - self.weights:
            self.average[name].copy_(state[name])

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """The averaged weights in place; afterwards the model's own, bit for bit."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in self.average.items():
            value.copy_(state["average"][name])


class EarlyStop:
    """Stops after `patience` epochs without a better value."""

    def __init__(self, patience: int, metric: Literal["score", "loss"]) -> None:
        self.patience, self.sign = patience, 1.0 if metric == "score" else -1.0
        self.best, self.waited = -math.inf, 0

    @property
    def stopped(self) -> bool:
        return self.waited >= self.patience

    def update(self, value: float) -> bool:
        """Note an epoch's value; whether it is the best so far."""
        if self.sign * value > self.best:
            self.best, self.waited = self.sign * value, 0
            return True
        self.waited += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
