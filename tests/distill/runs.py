"""Asking the engine for runs, and comparing what came out."""

from functools import partial

import pytest
import safetensors.torch
import torch

from worker.distill import checkpoint, trainer
from worker.distill.errors import StopRequested
from worker.distill.events import Metrics


def weights(spec):
    return safetensors.torch.load_file(f"{spec.output}/{checkpoint.STUDENT}")


def identical(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def series(events, name):
    """Every (step, value) of a series, in the order it was reported."""
    blocks = [event for event in events if isinstance(event, Metrics) and name in event.values]
    return [pair for block in blocks for pair in zip(block.steps, block.values[name], strict=True)]


def reached(events, at):
    return any(step >= at for step, _ in series(events, "loss/total"))


def stopped_at(run, at, events):
    """Train, stopped at each of these steps; only an interval of 0 in the meter shows every step."""
    for step in at:
        with pytest.raises(StopRequested) as stop:
            trainer.train(run, events.append, partial(reached, events, step))
        assert stop.value.step == step
