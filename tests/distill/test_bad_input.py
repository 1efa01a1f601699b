"""What a run cannot do, or only just: said in words, with nothing lost."""

import errno
import math

import pytest
import torch

from tests.distill.runs import reached, series
from worker.distill import checkpoint, keeping, trainer
from worker.distill.__main__ import failure
from worker.distill.errors import Diverged
from worker.distill.events import Checkpoint, Log
from worker.distill.methods import ab, fitnet
from worker.distill.spec import ModelRef, Objective, Schedule, SpecError, Term


@pytest.fixture
def every_step(monkeypatch):
    """Each step is seen at once, and each epoch ends with a checkpoint."""
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)
    monkeypatch.setattr(keeping, "EPOCH_END", 0)


@pytest.fixture
def broken_at(monkeypatch):
    """The hint's loss is what is said from one step on, counted from 1."""

    def breaks(at, value):
        good = fitnet.Method.forward
        bad = lambda self, step: good(self, step) * (value if step.number + 1 >= at else 1)  # noqa: E731
        monkeypatch.setattr(fitnet.Method, "forward", bad)

    return breaks


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_term_that_breaks_is_named_with_its_step_and_the_last_good_checkpoint(
    spec, every_step, broken_at, value
):
    broken_at(9, value)
    with pytest.raises(Diverged, match="last good checkpoint is of step 6") as diverged:
        trainer.train(spec(), lambda event: None)
    assert (diverged.value.term, diverged.value.step) == ("loss/fitnet", 9)


def test_a_stop_that_finds_the_run_diverged_keeps_the_last_good_checkpoint(spec, monkeypatch, broken_at):
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 1e9)  # nothing is seen before the stop
    monkeypatch.setattr(keeping, "EPOCH_END", 0)
    broken_at(9, float("nan"))
    asked = iter(range(1000))
    with pytest.raises(Diverged, match="last good checkpoint is of step 6") as diverged:
        trainer.train(spec(), lambda event: None, lambda: next(asked) >= 12)
    assert diverged.value.term == "loss/fitnet"


def test_a_disk_without_room_for_a_checkpoint_ends_the_run_at_the_one_before(spec, every_step, monkeypatch):
    run, events, written = spec(), [], checkpoint.os.replace

    def full_at_the_second(source, target):
        if "0000000012" in target.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", full_at_the_second)
    with pytest.raises(OSError, match="No space") as full:
        trainer.train(run, lambda event: None)
    failed = failure(full.value)
    assert "disk is full" in failed.message
    assert "last checkpoint" in failed.fix
    assert not failed.traceback
    monkeypatch.undo()
    trainer.train(run, events.append)
    assert series(events, "loss/total")[0][0] == 7


class Broken(torch.autograd.Function):
    """x with a gradient that is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("at", [4, 6])
def test_weights_that_are_no_numbers_are_in_no_checkpoint(spec, every_step, monkeypatch, at):
    """Broken by the last step before a stop, or by the first stage's very last."""
    good = ab.Method.prelude
    bad = lambda self, step: (Broken.apply if step.number + 1 == at else torch.clone)(good(self, step))  # noqa: E731
    monkeypatch.setattr(ab.Method, "prelude", bad)
    prepared = Objective(terms=[Term(method="ab", params={"prelude_epochs": 1})])
    events = []
    with pytest.raises(Diverged, match="weights became nan at step") as diverged:
        trainer.train(spec(objective=prepared), events.append, lambda: reached(events, 4) and at == 4)
    assert diverged.value.step == at
    assert not any(isinstance(event, Checkpoint) for event in events)


def test_gradients_that_overflow_in_half_precision_are_no_divergence(spec, monkeypatch):
    """The scale starts too large by intention."""
    run = spec(precision="fp16", clip_norm=1.0, epochs=1)
    assembled = trainer.assemble

    def too_large(*arguments):
        found = assembled(*arguments)
        found.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
        return found

    monkeypatch.setattr(trainer, "assemble", too_large)
    events = []
    trainer.train(run, events.append)
    norms = [value for _, value in series(events, "gradient norm")]
    assert not math.isfinite(norms[0])  # kept as it was, and marked on the curve
    assert len(norms) == 6


def broken_gradients(monkeypatch, steps):
    """The hint's gradient is no number at these steps, counted from 1, though its loss is sound."""
    good = fitnet.Method.forward
    bad = lambda self, step: (Broken.apply if step.number + 1 in steps else torch.clone)(good(self, step))  # noqa: E731
    monkeypatch.setattr(fitnet.Method, "forward", bad)


@pytest.mark.parametrize("interval", [0, 1e9])
def test_gradients_that_overflow_at_any_scale_end_a_run_in_half_precision(spec, monkeypatch, interval):
    """Every loss looks sound, and nothing is learnt: it must not go on so for hours."""
    monkeypatch.setattr("worker.distill.meter.INTERVAL", interval)
    monkeypatch.setattr(keeping, "EPOCH_END", 0)
    broken_gradients(monkeypatch, range(9, 10_000))
    events = []
    with pytest.raises(Diverged, match="overflow in fp16 at any scale") as diverged:
        trainer.train(spec(precision="fp16", epochs=12), events.append)
    scales = 31 if interval == 0 else 34  # from 2^16 to below 2^-14; then, at that epoch's end
    assert diverged.value.step == 8 + scales
    failed = failure(diverged.value)
    assert failed.code == "nan"
    assert f"({scales} steps in a row were left out) at step {8 + scales} (learning rate" in failed.message
    assert f"the last good checkpoint is of step {(8 + scales - 1) // 6 * 6}" in failed.message
    assert "bf16" in failed.fix
    assert all(math.isfinite(value) for _, value in series(events, "loss/total"))


def test_a_gradient_that_overflows_now_and_then_is_told_and_forgiven(spec, every_step, monkeypatch):
    broken_gradients(monkeypatch, {3, 4})
    events = []
    trainer.train(spec(precision="fp16", epochs=1), events.append)
    told = [event.text for event in events if isinstance(event, Log) and "fp16" in event.text]
    assert told == ["fp16: 2 steps were left out, whose gradients overflowed; the scale is 16384 now."]


@pytest.mark.parametrize("schedule", [{"warmup_epochs": 0.5}, {"stop_epoch": 1.0}])
def test_steps_without_any_weight_teach_nothing_and_harm_nothing(spec, schedule):
    """Without a task loss, a warm-up's first step and all after a stop have no weight left."""
    alone = Objective(task_weight=0, terms=[Term(method="kd", schedule=Schedule(**schedule))])
    events = []
    trainer.train(spec(objective=alone, epochs=2), events.append)
    totals = dict(series(events, "loss/total"))
    empty = [step for step, total in totals.items() if total == 0]
    assert len(totals) == 12
    assert empty == ([1] if "warmup_epochs" in schedule else list(range(7, 13)))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
def test_a_term_may_bring_its_own_parameters_later_than_another(spec, optimizer):
    late = Schedule(warmup_epochs=0.5)
    both = [Term(method="fitnet"), Term(method="vid", schedule=late), Term(method="ctkd", schedule=late)]
    events = []
    settings = {"optimizer": optimizer, "learning_rate": 1e-3, "epochs": 1}
    trainer.train(spec(objective=Objective(terms=both), **settings), events.append)
    assert len(series(events, "loss/vid")) == 6


def test_a_student_of_other_classes_than_the_datasets_is_refused(spec):
    wrong = spec().model_copy(update={"student": ModelRef(architecture="resnet8", classes=7)})
    with pytest.raises(SpecError, match="of which there are 3") as refused:
        trainer.train(wrong, lambda event: None)
    assert refused.value.field == "student.classes"


@pytest.mark.parametrize("architecture", ["vgg8", "mobilenetv2-half"])
def test_one_image_a_batch_is_refused_where_batch_norm_sees_one_pixel(spec, architecture):
    run = spec(batch_size=1).model_copy(update={"student": ModelRef(architecture=architecture)})
    with pytest.raises(SpecError, match="no variance") as refused:
        trainer.train(run, lambda event: None)
    assert refused.value.field == "training.batch_size"


def test_one_image_a_batch_trains_where_its_map_is_larger(spec):
    related = Objective(terms=[Term(method=key, weight=0.1) for key in ("kd", "rkd", "sp", "pkt", "cc")])
    events = []
    trainer.train(spec(objective=related, batch_size=1, epochs=1), events.append)
    assert len(series(events, "loss/total")) == 37
    assert {value for _, value in series(events, "loss/rkd")} == {0}
