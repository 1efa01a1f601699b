"""One run in two processes, over gloo."""

import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.distill.runs import reached, series, weights
from worker.distill import trainer
from worker.distill.errors import Diverged, PassedOn, StopRequested
from worker.distill.failures import failure
from worker.distill.group import Group, SharedBatchNorm, share_batch_norm
from worker.distill.spec import Objective, Term

pytestmark = pytest.mark.slow

OBJECTIVE = Objective(
    terms=[Term(method="kd", weight=0.5), Term(method="fitnet", weight=0.5), Term(method="rkd", weight=0.1)]
)


def curves(events):
    return {
        name: [v for _, v in series(events, f"loss/{name}")]
        for name in ("total", "ce", "kd", "fitnet", "rkd")
    }


def test_two_processes_give_the_loss_curve_of_one(spec):
    """Batch norm, relations between samples, clipping, a smaller last batch: all of the whole batch."""
    settings = {"epochs": 2, "clip_norm": 1.0, "batch_size": 7}
    alone, shared = spec("alone", OBJECTIVE, **settings), spec("shared", OBJECTIVE, **settings)
    shared = shared.model_copy(update={"processes": 2})
    one, two = [], []
    trainer.train(alone, one.append)
    result = trainer.train(shared, two.append)
    for name, curve in curves(one).items():
        assert curves(two)[name] == pytest.approx(curve, rel=1e-3, abs=1e-5), name
    assert result["student"]["top1"] is not None
    ours, theirs = weights(alone), weights(shared)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name].float(), tensor.float(), rtol=1e-2, atol=1e-3)


def test_all_processes_stop_at_one_step_and_go_on_together(spec, monkeypatch):
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)
    run = spec("run", OBJECTIVE, epochs=2).model_copy(update={"processes": 2})
    events = []
    with pytest.raises(StopRequested) as stop:
        trainer.train(run, events.append, lambda: reached(events, 4))
    assert stop.value.step == 4
    trainer.train(run, events.append)
    assert [step for step, _ in series(events, "loss/total")] == list(range(1, 13))


def test_a_stop_during_validation_leaves_nobody_waiting(spec, monkeypatch):
    """Only the leader is asked there: the others go on to the next epoch, where they would wait for it."""
    monkeypatch.setattr(
        "worker.distill.group.GRACE", 10_000.0
    )  # whoever waits runs into the test's own limit
    run = spec("run", OBJECTIVE, epochs=2).model_copy(update={"processes": 2})
    asked = iter(range(100))
    with pytest.raises(StopRequested) as stop:
        trainer.train(run, lambda event: None, lambda: next(asked) == 6)
    assert stop.value.step == 6


def test_a_run_that_diverges_in_every_process_is_told_by_the_leader(spec):
    """Whoever sees it first: the reason must not be that another process ended."""
    run = spec("run", OBJECTIVE, epochs=20, learning_rate=100, schedule="constant")
    with pytest.raises(Diverged, match="learning rate 100"):
        trainer.train(run.model_copy(update={"processes": 2}), lambda event: None)


def test_alone_every_operation_is_the_identity():
    x, group = torch.randn(5, 3), Group()
    assert group.mine(x) is x
    assert group.whole(x, 5) is x
    assert group.any(True)
    assert not group.any(False)


def test_shares_cover_the_batch():
    x = torch.arange(7)
    assert torch.equal(torch.cat([Group(rank, 3).mine(x) for rank in range(3)]), x)


def test_batch_norm_is_replaced_with_its_state_and_evaluates_alike():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    net(torch.randn(8, 1, 6, 6))
    x = torch.randn(2, 1, 6, 6)
    before, state = net.eval()(x), {name: value.clone() for name, value in net.state_dict().items()}
    share_batch_norm(net)
    assert isinstance(net[1][0], SharedBatchNorm)
    assert net.state_dict().keys() == state.keys()
    assert torch.equal(net(x), before)


def test_a_follower_that_cannot_start_is_named_at_once(spec, monkeypatch):
    monkeypatch.setattr("worker.distill.group.sys.executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="process 1 of 2 ended with code 1"):
        trainer.train(spec("run").model_copy(update={"processes": 2}), lambda event: None)


def test_why_a_follower_failed_is_passed_on(spec, monkeypatch, tmp_path):
    """The real command, which refuses what it is given."""
    engine = tmp_path / "engine"
    engine.write_text(f"#!/bin/sh\ncat > /dev/null\nexec {sys.executable} -m worker.distill train /nowhere\n")
    engine.chmod(0o755)
    monkeypatch.setattr("worker.distill.group.sys.executable", str(engine))
    with pytest.raises(PassedOn) as passed:
        trainer.train(spec("run").model_copy(update={"processes": 2}), lambda event: None)
    failed = failure(passed.value)
    assert (failed.code, failed.value) == ("spec", "'/nowhere'")
    assert "cannot be read" in failed.message
    assert failed.message.endswith("(process 1 of 2).")


def test_a_follower_that_is_killed_in_the_middle_is_named(spec, monkeypatch):
    children = []
    start = subprocess.Popen

    def started(*arguments, **options):
        children.append(start(*arguments, **options))
        return children[-1]

    monkeypatch.setattr("worker.distill.group.subprocess.Popen", started)
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)
    events = []

    def report(event):
        events.append(event)
        if reached(events, 3):
            children[0].kill()

    run = spec("run", OBJECTIVE, epochs=1000).model_copy(update={"processes": 2})
    with pytest.raises(RuntimeError, match="process 1 of 2 ended with code -9"):
        trainer.train(run, report)
