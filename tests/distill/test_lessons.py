"""Runs that look their teacher's answers up: the same weights, whichever way the answers come."""

from functools import partial

import pytest
import torch

from tests.distill.runs import identical, reached, weights
from worker.distill import teacher_table, trainer
from worker.distill.errors import StopRequested
from worker.distill.events import Log
from worker.distill.spec import Objective, TeacherCache, Term, two_part

pytestmark = pytest.mark.slow
EPOCHS = 3


@pytest.fixture
def cached(spec, tmp_path):
    def make(output, objective=None, budget=2**30, **training):
        cache = TeacherCache(folder=str(tmp_path / "cache"), budget=budget)
        settings = {"epochs": EPOCHS} | training
        return spec(output, objective or two_part(), **settings).model_copy(update={"cache": cache})

    return make


def test_a_second_run_finds_every_view_and_ends_with_the_same_weights(cached):
    first, second = cached("first"), cached("second")
    cold = trainer.train(first, lambda event: None)["cache"]
    warm = trainer.train(second, lambda event: None)["cache"]
    assert (cold["computed"], cold["reused"]) == (EPOCHS + 1, 0)  # and the test split
    assert (warm["computed"], warm["reused"]) == (0, EPOCHS + 1)
    assert warm["rows"] == EPOCHS * 36 + 12
    assert warm["seconds_saved"] > 0
    assert warm["reason"] == ""
    assert identical(weights(first), weights(second))


def test_looked_up_answers_are_the_computed_ones_to_half_precision(cached, spec):
    live, looked_up = spec("live", epochs=1), cached("looked up", epochs=1)
    results = [trainer.train(run, lambda event: None) for run in (live, looked_up)]
    assert results[0]["cache"]["reason"] == "no folder for the cache was given"
    for a, b in zip(weights(live).values(), weights(looked_up).values(), strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=1e-2, atol=1e-3)
    assert results[0]["teacher"]["top1"] == results[1]["teacher"]["top1"]


def test_runs_of_other_seeds_share_the_views_that_are_cycled(cached):
    runs = [cached(f"run{seed}", views=2, seed=seed) for seed in (1, 2)]
    found = [trainer.train(run, lambda event: None)["cache"] for run in runs]
    assert [f["computed"] for f in found] == [3, 0]
    assert found[0]["rows"] == found[1]["rows"] == EPOCHS * 36 + 12


def test_views_for_mlld_are_kept_too(cached):
    objective = Objective(terms=[Term(method="mlld")])
    for expected in ((2 * EPOCHS + 1, 0), (0, 2 * EPOCHS + 1)):
        result = trainer.train(cached(f"run{expected[0]}", objective), lambda event: None)["cache"]
        assert (result["computed"], result["reused"]) == expected


def test_a_run_is_stopped_and_resumed_exactly_with_its_cache(cached, monkeypatch):
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)
    undisturbed, stopped = cached("undisturbed"), cached("stopped")
    trainer.train(undisturbed, lambda event: None)
    events = []
    with pytest.raises(StopRequested):
        trainer.train(stopped, events.append, partial(reached, events, 8))
    trainer.train(stopped, events.append)
    assert identical(weights(undisturbed), weights(stopped))


def test_what_does_not_fit_the_budget_is_computed_and_said(cached, spec):
    events = []
    run = cached("small", budget=1000)
    result = trainer.train(run, events.append)
    assert result["cache"]["computed"] == 0
    assert "budget" in result["cache"]["reason"]
    assert any("computed at each step" in event.text for event in events if isinstance(event, Log))
    plain = spec("plain", two_part(), epochs=EPOCHS)
    trainer.train(plain, lambda event: None)
    assert identical(weights(run), weights(plain))


def test_a_full_disk_costs_nothing_but_the_next_runs_time(cached, monkeypatch):
    on_disk, in_memory = cached("on disk"), cached("in memory")
    trainer.train(on_disk, lambda event: None)
    import shutil

    shutil.rmtree(on_disk.cache.folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(teacher_table, "write_all", full)
    events = []
    result = trainer.train(in_memory, events.append)
    assert "No space left" in result["cache"]["reason"]
    assert any(
        event.level == "warning" and "No space" in event.text for event in events if isinstance(event, Log)
    )
    assert identical(weights(on_disk), weights(in_memory))


def test_mixed_images_have_no_answers_in_store(cached):
    result = trainer.train(cached("mixed", mixup=0.4, epochs=1), lambda event: None)["cache"]
    assert result["reason"] == "mixed images are new at every step"


def test_a_control_asks_no_teacher(spec):
    alone = spec(epochs=1).model_copy(update={"teacher": None, "objective": Objective()})
    assert trainer.train(alone, lambda event: None)["cache"] is None
