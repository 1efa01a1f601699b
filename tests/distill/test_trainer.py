"""The loop: what it reports, that it stops and goes on exactly, that bad input is refused in words."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.distill.runs import identical, reached, series, weights
from worker.distill import checkpoint, keeping, models, optim, trainer
from worker.distill.errors import Diverged, OutOfMemory, StopRequested
from worker.distill.evaluate import never
from worker.distill.events import Checkpoint, Progress, Resumed
from worker.distill.lessons import Lessons
from worker.distill.spec import ModelRef, Objective, SpecError, Term, Training, hinton, two_part


def test_every_term_is_reported_at_every_step_and_the_total_is_their_weighted_sum(spec):
    events = []
    trainer.train(spec(objective=hinton(alpha=0.9)), events.append)
    steps = [step for step, _ in series(events, "loss/kd")]
    assert steps == list(range(1, 19))  # 37 images: 6 full batches an epoch; the one left over is left out
    columns = (dict(series(events, f"loss/{name}")) for name in ("total", "ce", "kd"))
    for total, ce, kd in zip(*(column.values() for column in columns), strict=True):
        assert total == pytest.approx(0.1 * ce + 0.9 * kd, rel=1e-5)
    assert [step for step, _ in series(events, "val/top1")] == [6, 12, 18]
    assert series(events, "weight/kd")[0] == (1, 0.9)
    assert dict(series(events, "lr"))[1] == pytest.approx(0.02)
    progress = [event for event in events if isinstance(event, Progress)]
    assert (progress[-1].step, progress[-1].total_steps, progress[-1].epoch) == (18, 18, 3)


def test_the_result_measures_student_and_teacher_alike(spec):
    result = trainer.train(spec(epochs=1), lambda event: None)
    assert result["steps"] == 6
    assert result["student"].keys() == result["teacher"].keys()
    teacher = result["teacher"]
    assert teacher["split"] == "test"
    assert teacher["top5"] is None  # of three classes
    assert teacher["top1"] > 0.9  # the task is easy: a lower value means the weights were not loaded
    assert teacher["top1"] == pytest.approx(np.mean(teacher["per_class"]))
    assert teacher["parameters"] == result["student"]["parameters"] > 10_000
    assert json.loads(json.dumps(result)) == result


def test_the_exported_student_has_none_of_the_methods_parts(spec):
    run = spec(epochs=1, objective=two_part())
    trainer.train(run, lambda event: None)
    model = models.build("resnet8", num_classes=3, in_channels=1, image_size=8)
    assert weights(run).keys() == model.state_dict().keys()


def test_the_teacher_is_not_changed_by_training(spec, teacher):
    run = trainer.assemble(spec(), torch.device("cpu"), lambda event: None)
    before = {key: value.clone() for key, value in run.teachers.state_dict().items()}
    trainer.fit(run, Lessons(run, print, never), lambda event: None, never)
    assert identical(before, run.teachers.state_dict())


def test_two_runs_of_one_spec_end_with_the_same_weights(spec):
    first, second = spec("first"), spec("second")
    for run in (first, second):
        trainer.train(run, lambda event: None)
    assert identical(weights(first), weights(second))


def test_a_control_starts_from_the_students_weights(spec):
    distilled = spec()
    alone = distilled.model_copy(update={"teacher": None, "objective": Objective()})
    a, b = (trainer.assemble(s, torch.device("cpu"), lambda event: None) for s in (distilled, alone))
    assert identical(a.student.state_dict(), b.student.state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stops", [(1,), (4, 9), (6,), (17, 18)])
def test_a_run_that_was_stopped_and_resumed_ends_with_the_undisturbed_runs_weights(
    spec, monkeypatch, optimizer, stops
):
    undisturbed, stopped = (spec(name, optimizer=optimizer) for name in ("undisturbed", "stopped"))
    trainer.train(undisturbed, lambda event: None)
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)  # every step is seen at once
    events = []
    for at in stops:
        seen = partial(reached, events, at)
        with pytest.raises(StopRequested) as stop:
            trainer.train(stopped, events.append, seen)
        assert stop.value.step == at
    trainer.train(stopped, events.append)
    assert identical(weights(undisturbed), weights(stopped))
    assert [step for step, _ in series(events, "loss/total")] == list(
        range(1, 19)
    )  # none twice, none missing
    assert [step for step, _ in series(events, "val/top1")] == [6, 12, 18]


class Dropping(torch.nn.Module):
    """A network whose every step draws random numbers."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 8, 3)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.dropout(self.conv(x).relu().mean((2, 3)), 0.5, self.training))


def test_dropout_goes_on_drawing_where_it_was_stopped(spec, monkeypatch):
    monkeypatch.setattr(models, "build", lambda *_, **__: Dropping())
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)
    alone = {"teacher": None, "objective": Objective()}
    undisturbed, stopped = (spec(name).model_copy(update=alone) for name in ("undisturbed", "stopped"))
    trainer.train(undisturbed, lambda event: None)
    events = []
    with pytest.raises(StopRequested):
        trainer.train(stopped, events.append, partial(reached, events, 8))
    trainer.train(stopped, events.append)
    assert identical(weights(undisturbed), weights(stopped))


def test_images_too_many_for_the_memory_are_gathered_from_disk_and_train_alike(spec, monkeypatch):
    resident, mapped = spec("resident", epochs=1), spec("mapped", epochs=1)
    trainer.train(resident, lambda event: None)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    assert trainer.assemble(mapped, torch.device("cpu"), lambda event: None).batches.images is None
    trainer.train(mapped, lambda event: None)
    assert identical(weights(resident), weights(mapped))


def test_a_finished_run_is_not_trained_again(spec):
    run, events = spec(epochs=1), []
    first = trainer.train(run, lambda event: None)
    again = trainer.train(run, events.append)
    assert series(events, "loss/total") == []
    assert again["student"]["loss"] == first["student"]["loss"]


def test_a_damaged_checkpoint_costs_steps_and_not_exactness(spec, monkeypatch):
    monkeypatch.setattr(keeping, "EPOCH_END", 0)
    run, events = spec(), []
    trainer.train(run, events.append)
    expected = weights(run)
    newest = [event for event in events if isinstance(event, Checkpoint) and event.kind == "resume"][-1]
    with open(newest.path, "r+b") as file:
        file.truncate(1000)
    events.clear()
    trainer.train(run, events.append)
    assert [step for step, _ in series(events, "loss/total")] == list(range(13, 19))
    assert identical(weights(run), expected)


def test_another_runs_checkpoints_are_refused(spec):
    trainer.train(spec(epochs=1), lambda event: None)
    with pytest.raises(SpecError, match="another run") as refused:
        trainer.train(spec(epochs=2), lambda event: None)
    assert refused.value.field == "output"


def test_a_checkpoint_of_a_version_with_fewer_options_is_the_same_runs(spec, monkeypatch):
    identity = keeping.identity

    def as_it_was(run):
        known = identity(run)
        return known | {"training": {k: v for k, v in known["training"].items() if k != "ema_decay"}}

    monkeypatch.setattr(keeping, "identity", as_it_was)
    trainer.train(spec(epochs=1), lambda event: None)
    monkeypatch.setattr(keeping, "identity", identity)
    events = []
    trainer.train(spec(epochs=1), events.append)
    assert [event.exact for event in events if isinstance(event, Resumed)] == [True]


def test_divergence_stops_the_run_and_names_term_step_and_rate(spec):
    events = []
    with pytest.raises(Diverged) as diverged:
        trainer.train(spec(learning_rate=100, schedule="constant"), events.append)
    error = diverged.value
    assert error.term in ("ce", "kd", "fitnet", "val/loss") or error.term.startswith("loss/")
    assert error.learning_rate == 100
    assert f"step {error.step}" in str(error)
    assert not any(isinstance(event, Checkpoint) for event in events)  # none of a spoilt student
    assert max(step for step, _ in series(events, "loss/total")) == error.step


def test_a_batch_too_large_for_the_memory_is_said_with_its_size(spec, monkeypatch):
    def exhausted(*_):
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
        )

    monkeypatch.setattr(trainer, "one_step", exhausted)
    with pytest.raises(OutOfMemory, match="batch of 6") as error:
        trainer.train(spec(), lambda event: None)
    assert "set it to 3" in error.value.fix


def test_the_terms_need_a_teacher(spec):
    with pytest.raises(SpecError) as refused:
        trainer.train(spec().model_copy(update={"teacher": None}), lambda event: None)
    assert refused.value.field == "objective.terms[0].method"


def test_a_teacher_of_other_classes_is_refused_with_both_numbers(spec, tmp_path):
    net = models.build("resnet8", num_classes=7, in_channels=1, image_size=8)
    checkpoint.save_student(tmp_path, net, 0)
    ref = ModelRef(architecture="resnet8", weights=str(tmp_path / checkpoint.STUDENT))
    with pytest.raises(SpecError, match=r"7 classes.*has 3") as refused:
        trainer.train(spec().model_copy(update={"teacher": ref}), lambda event: None)
    assert refused.value.field == "teacher.weights"


@pytest.mark.parametrize(
    ("update", "field"),
    [
        ({"student": ModelRef(architecture="resnet-of-nowhere")}, "student.architecture"),
        ({"training": Training(epochs=2, warmup_epochs=2)}, "training.warmup_epochs"),
        ({"dataset": "/nowhere"}, "dataset"),
    ],
)
def test_bad_input_is_refused_by_the_name_of_its_field(spec, update, field):
    with pytest.raises(SpecError) as refused:
        trainer.train(spec().model_copy(update=update), lambda event: None)
    assert refused.value.field == field


def test_learning_rate_warms_up_and_falls_as_the_schedule_says():
    def rates(**training):
        settings = Training(epochs=10, learning_rate=1.0, **training)
        return [optim.learning_rate(settings, step, 40, 4) for step in range(40)]

    assert rates(schedule="constant") == [1.0] * 40
    assert rates(schedule="constant", warmup_epochs=1)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates(schedule="step")[19:21] == [1.0, pytest.approx(0.1)]
    assert rates(schedule="step")[29:31] == [pytest.approx(0.1), pytest.approx(0.01)]
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1.0
    assert cosine[20] == pytest.approx(0.5)
    assert 0 < cosine[39] < 0.01


def test_norms_and_biases_do_not_decay_and_methods_have_their_own_group(spec):
    run = trainer.assemble(spec(weight_decay=0.01), torch.device("cpu"), lambda event: None)
    groups = {group["name"]: group for group in run.optimizer.param_groups}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "student": 0.01,
        "student, norms and biases": 0.0,
        "methods": 0.01,
        "methods, norms and biases": 0.0,
    }
    assert all(p.ndim > 1 for p in groups["student"]["params"])
    assert sum(p.numel() for group in groups.values() for p in group["params"]) == sum(
        p.numel() for module in (run.student, run.loss) for p in module.parameters()
    )


def test_two_terms_of_one_method_are_two_curves(spec):
    objective = hinton()
    objective.terms.append(Term(method="kd", weight=0.5, params={"temperature": 1}))
    events = []
    trainer.train(spec(epochs=1, objective=objective), events.append)
    assert len(series(events, "loss/kd")) == len(series(events, "loss/kd_2")) == 6
