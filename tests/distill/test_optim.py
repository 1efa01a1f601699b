"""Optimisers by name, rates, the moving average, early stopping."""

import copy
from typing import get_args

import pytest
import torch
from torch import nn

from worker.distill import optim
from worker.distill.spec import Optimizer, Training


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))


def steps(model, optimizer, numbers):
    for number in numbers:
        x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def made(model, name):
    training = Training(optimizer=name, learning_rate=1e-2)
    return optim.optimizer(training, optim.parameter_groups("student", model, 5e-4))


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_every_optimiser_moves_the_weights_and_goes_on_where_its_state_was_saved(name):
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = made(model, name)
    steps(model, optimizer, range(3))
    assert not torch.equal(model.state_dict()["3.weight"], before["3.weight"])
    twin = net()
    twin.load_state_dict(model.state_dict())
    again = made(twin, name)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, again)):
        steps(m, o, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_what_is_frozen_is_in_no_group():
    model = net()
    model[0].requires_grad_(False)
    groups = optim.parameter_groups("student", model, 0.1)
    assert [(g["name"], len(g["params"]), g["weight_decay"]) for g in groups] == [
        ("student", 1, 0.1),
        ("student, norms and biases", 3, 0.0),
    ]


def rates(**training):
    settings = Training(epochs=10, learning_rate=1.0, **training)
    return [optim.learning_rate(settings, step, 40, 4) for step in range(40)]


def test_rates_fall_in_a_line_or_at_the_milestones():
    linear = rates(schedule="linear")
    assert (linear[0], linear[20]) == (1.0, 0.5)
    dropped = rates(schedule="step", milestones=[0.25, 0.5], step_factor=0.5)
    assert [dropped[s] for s in (9, 10, 19, 20, 39)] == [1, 0.5, 0.5, 0.25, 0.25]


def test_gradients_are_scaled_down_together():
    a, b = (torch.zeros(1, requires_grad=True) for _ in range(2))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert optim.clip([a, b], 1.0).item() == 5
    torch.testing.assert_close(torch.cat([a.grad, b.grad]), torch.tensor([0.6, 0.8]))


def test_the_average_follows_the_weights_and_gives_them_back_bit_for_bit():
    model = net()
    first = copy.deepcopy(model.state_dict())
    ema = optim.Ema(model, 0.9)
    steps(model, made(model, "sgd"), [1])
    ema.update(model)
    own = copy.deepcopy(model.state_dict())
    keep = 2 / 11  # early averages follow faster
    with ema.swapped(model):
        now = model.state_dict()
        expected = keep * first["3.weight"] + (1 - keep) * own["3.weight"]
        torch.testing.assert_close(now["3.weight"], expected)
        assert torch.equal(now["1.running_mean"], own["1.running_mean"])
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())


def test_the_average_goes_on_where_it_was_saved():
    model = net()
    ema, optimizer = optim.Ema(model, 0.99), made(model, "sgd")
    for number in range(20):
        steps(model, optimizer, [number])
        ema.update(model)
    other = optim.Ema(net(), 0.99)
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    steps(model, optimizer, [20])
    for average in (ema, other):
        average.update(model)
    assert all(torch.equal(ema.average[name], value) for name, value in other.average.items())


@pytest.mark.parametrize(("metric", "values"), [("score", [1, 3, 2, 3, 2]), ("loss", [3, 1, 2, 1, 2])])
def test_early_stopping_waits_for_a_better_value(metric, values):
    stop = optim.EarlyStop(3, metric)
    said = [(stop.update(value), stop.stopped) for value in values]
    assert said == [(True, False), (True, False), (False, False), (False, False), (False, True)]
    other = optim.EarlyStop(3, metric)
    other.load_state_dict(stop.state_dict())
    assert other.stopped


def test_sgd_from_given_buffers_is_sgd_from_none():
    ours, theirs = (nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = Training(learning_rate=0.1, weight_decay=0.01)
    mine = optim.optimizer(settings, optim.parameter_groups("net", ours, 0.01))
    plain = torch.optim.SGD(optim.parameter_groups("net", theirs, 0.01), 0.1, 0.9, nesterov=True, fused=True)
    for _ in range(3):
        for net, optimizer in ((ours, mine), (theirs, plain)):
            optimizer.zero_grad()
            net(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
