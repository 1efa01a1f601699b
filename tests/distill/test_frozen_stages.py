"""Stages of the student that keep their weights and statistics, while the rest trains."""

import pytest
import torch

from tests.distill.runs import identical, weights
from worker.distill import checkpoint, models, trainer
from worker.distill.spec import ModelRef, Objective, SpecError, Term

FROZEN = ("conv1", "bn1", "layer1", "layer2")


@pytest.fixture
def start(tmp_path):
    """The weights a student starts from; its statistics are not those of the data."""
    torch.manual_seed(3)
    net = models.build("resnet8", num_classes=3, in_channels=1, image_size=8)
    net(torch.randn(4, 1, 8, 8))
    checkpoint.save_student(tmp_path / "start", net, 0)
    return net.state_dict(), str(tmp_path / "start" / checkpoint.STUDENT)


def run_of(spec, path, stages=2, **settings):
    student = ModelRef(architecture="resnet8", weights=path, frozen_stages=stages)
    return spec(epochs=1, weight_decay=0.1, **settings).model_copy(update={"student": student})


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_frozen_stages_are_the_same_bit_for_bit_and_the_others_train(spec, start, processes):
    before, path = start
    run = run_of(spec, path, ema_decay=0.5).model_copy(update={"processes": processes})
    trainer.train(run, lambda event: None)
    moved = changed(before, weights(run))
    assert not {name for name in moved if name.startswith(FROZEN)}
    assert {name for name in before if not name.startswith(FROZEN)} == moved


def test_all_stages_frozen_leave_the_head_to_train(spec, start):
    before, path = start
    run = run_of(spec, path, stages=3, objective=Objective(terms=[Term(method="kd")]))
    trainer.train(run, lambda event: None)
    assert changed(before, weights(run)) == {"fc.weight", "fc.bias"}


def test_more_stages_than_there_are_cannot_be_frozen(spec, start):
    with pytest.raises(SpecError, match="has 3 stages") as refused:
        trainer.train(run_of(spec, start[1], stages=4), lambda event: None)
    assert refused.value.field == "student.frozen_stages"


def test_the_trunk_of_a_rebuilt_student_can_be_frozen(spec, start):
    before, path = start
    run = run_of(spec, path, objective=Objective(task_weight=0, terms=[Term(method="simkd")]))
    trainer.train(run, lambda event: None)
    after = weights(run)
    trunk = {name.removeprefix("trunk."): t for name, t in after.items() if name.startswith("trunk.")}
    frozen = {name: t for name, t in before.items() if name.startswith(FROZEN)}
    assert identical(frozen, {name: trunk[name] for name in frozen})
