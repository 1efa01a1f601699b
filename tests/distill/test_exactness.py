"""Every method: stopped anywhere and resumed, a run ends with the weights of an undisturbed one."""

import pytest

from tests.distill.runs import identical, series, stopped_at, weights
from worker.distill import methods, trainer
from worker.distill.spec import Objective, Schedule, Term

pytestmark = pytest.mark.slow

KEYS = sorted(methods.discover().methods)
STEPS = 6  # of an epoch


def objective(key):
    """The method beside the task, its first stage of one epoch if it has one, its weight on the move."""
    fields = methods.get(key).Params.model_fields
    params = {"prelude_epochs": 1} if "prelude_epochs" in fields else {}
    schedule = Schedule(kind="cosine", final=0.5, warmup_epochs=1)
    return Objective(terms=[Term(method=key, weight=0.1, params=params, schedule=schedule)])


def stops(key):
    """In the middle of an epoch and at its end; with a first stage in it and where it goes over."""
    first = STEPS if "prelude_epochs" in methods.get(key).Params.model_fields else 0
    return (2, 6, 9) if first else (4, 6, 9)


@pytest.fixture
def every_step(monkeypatch):
    """Each step is seen at once, so that a run can be stopped at it."""
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)


@pytest.mark.parametrize("key", KEYS)
def test_a_stopped_and_resumed_run_ends_with_the_undisturbed_runs_weights(spec, every_step, key):
    settings = {"epochs": 2, "ema_decay": 0.9, "clip_norm": 1.0, "warmup_epochs": 0.5}
    undisturbed, stopped = (spec(name, objective(key), **settings) for name in ("undisturbed", "stopped"))
    trainer.train(undisturbed, lambda event: None)
    events = []
    stopped_at(stopped, stops(key), events)
    trainer.train(stopped, events.append)
    assert identical(weights(undisturbed), weights(stopped))
    steps = [step for step, _ in series(events, "loss/total")]
    assert steps == list(range(1, len(steps) + 1))  # none twice, none missing


@pytest.mark.parametrize("key", KEYS)
def test_two_runs_of_one_spec_are_one_and_the_same(spec, key):
    first, second = (spec(name, objective(key), epochs=1) for name in ("first", "second"))
    for run in (first, second):
        trainer.train(run, lambda event: None)
    assert identical(weights(first), weights(second))


SETTINGS = {
    "accumulation": {"accumulate": 4},
    "views": {"views": 2, "epochs": 3},
    "mixup and cutmix": {"mixup": 0.4, "cutmix": 1.0},
    "bf16": {"precision": "bf16"},
    "early stop": {"early_stop": 1, "epochs": 4},
    "constant average": {"ema_decay": 0.99, "augment": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_way_of_training_is_resumed_exactly(spec, every_step, name):
    settings = {"epochs": 2} | SETTINGS[name]
    undisturbed, stopped = (spec(name, **settings) for name in ("undisturbed", "stopped"))
    trainer.train(undisturbed, lambda event: None)
    events = []
    stopped_at(stopped, (1, 3), events)
    trainer.train(stopped, events.append)
    assert identical(weights(undisturbed), weights(stopped))


@pytest.mark.parametrize("optimizer", ["adam", "adafactor", "adan", "lamb", "lion", "nadamw"])
def test_every_optimiser_is_resumed_exactly(spec, every_step, optimizer):
    settings = {"epochs": 2, "optimizer": optimizer, "learning_rate": 1e-3}
    undisturbed, stopped = (spec(name, **settings) for name in ("undisturbed", "stopped"))
    trainer.train(undisturbed, lambda event: None)
    events = []
    stopped_at(stopped, (2, 7), events)
    trainer.train(stopped, events.append)
    assert identical(weights(undisturbed), weights(stopped))


def test_a_balanced_weight_goes_on_where_it_was(spec, every_step):
    balanced = Objective(terms=[Term(method="fitnet", weight=0.5, schedule=Schedule(balance=True))])
    undisturbed, stopped = (spec(name, balanced, epochs=2) for name in ("undisturbed", "stopped"))
    events = []
    trainer.train(undisturbed, events.append)
    drawn = [value for _, value in series(events, "weight/fitnet")]
    assert len(set(drawn)) > 6  # it moves
    events.clear()
    stopped_at(stopped, (5,), events)
    trainer.train(stopped, events.append)
    assert identical(weights(undisturbed), weights(stopped))
    assert [value for _, value in series(events, "weight/fitnet")] == pytest.approx(drawn)


@pytest.mark.parametrize("key", ["ft", "simkd"])
def test_a_finished_run_is_concluded_again_and_nothing_else(spec, key):
    """It may have ended early, with the best of its averaged weights kept."""
    run = spec("run", objective(key), epochs=9, early_stop=1, ema_decay=0.9, learning_rate=1e-6)
    first = trainer.train(run, lambda event: None)
    exported, events = weights(run), []
    again = trainer.train(run, events.append)
    assert series(events, "loss/total") == []
    assert identical(weights(run), exported)
    assert again["student"]["loss"] == first["student"]["loss"]
    assert again["steps"] == first["steps"]
