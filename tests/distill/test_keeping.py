"""Checkpoints in the middle of an epoch, and what a resume says about its exactness."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from tests.distill.runs import identical, reached, series, weights
from worker.distill import checkpoint, exactness, keeping, trainer
from worker.distill.errors import StopRequested
from worker.distill.events import Checkpoint, Log, Metrics, Resumed
from worker.distill.spec import Objective, TeacherCache

MOVING = ("throughput",)  # of the clock, not of the run


@pytest.fixture
def every_step(monkeypatch):
    """A checkpoint and a block of metrics at every step."""
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)
    monkeypatch.setattr(keeping, "MID_EPOCH", 0)
    monkeypatch.setattr(keeping, "SHARE", 0)
    monkeypatch.setattr(keeping, "EPOCH_END", 0)


def checkpoints(events):
    return [event for event in events if isinstance(event, Checkpoint) and event.kind == "resume"]


def curves(events):
    """Every series' points by (name, step); the last one said counts."""
    return {
        (name, step): value
        for event in events
        if isinstance(event, Metrics)
        for name, column in event.values.items()
        if name not in MOVING
        for step, value in zip(event.steps, column, strict=True)
    }


class Copies(list):
    """A reporter that keeps a copy of each checkpoint, as if the process had been killed right after it."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __call__(self, event):
        self.append(event)
        if isinstance(event, Checkpoint) and event.kind == "resume":
            here = self.folder / str(len(checkpoints(self)))
            here.mkdir(parents=True)
            shutil.copy(event.path, here)


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2, "ema_decay": 0.9}, {"early_stop": 2}])
def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_undisturbed_runs_bits_and_curves(
    spec, every_step, monkeypatch, tmp_path, settings
):
    watched = Copies(tmp_path / "copies")
    undisturbed = spec("undisturbed", epochs=2, **settings)
    trainer.train(undisturbed, watched)
    steps = [event.step for event in checkpoints(watched)]
    assert steps == sorted(set(steps))  # one for each step: at an epoch's last one, the epoch's own
    assert steps == list(range(1, steps[-1] + 1))
    for number in (1, len(steps) // 2 - 1, len(steps) // 2 + 1):
        resumed, events = spec(f"resumed-{number}", epochs=2, **settings), []
        shutil.copytree(tmp_path / "copies" / str(number), resumed.output)
        trainer.train(resumed, events.append)
        assert [event for event in events if isinstance(event, Resumed)] == [Resumed(step=steps[number - 1])]
        assert identical(weights(undisturbed), weights(resumed))
        after = {key: value for key, value in curves(watched).items() if key[1] > steps[number - 1]}
        assert {name for name, _ in after} >= {"loss/total", "lr", "val/loss"}
        assert curves(events) == after  # none at or before the checkpoint, none missing


def test_points_before_a_checkpoint_are_reported_before_it(spec, monkeypatch):
    monkeypatch.setattr(keeping, "MID_EPOCH", 0)
    monkeypatch.setattr(keeping, "SHARE", 0)
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 1000)
    events = []
    trainer.train(spec(epochs=2), events.append)
    for place, event in enumerate(events):
        if event in checkpoints(events):
            known = [step for step, _ in series(events[:place], "loss/total")]
            assert known == list(range(1, event.step + 1))


def test_how_often_is_decided_by_what_a_checkpoint_costs(spec, monkeypatch):
    monkeypatch.setattr(keeping, "MID_EPOCH", 0)
    monkeypatch.setattr(keeping, "SHARE", 10**9)  # after the first, none is due for years
    events = []
    trainer.train(spec(epochs=1), events.append)
    assert [event.step for event in checkpoints(events)] == [1, 6]


def test_as_it_is_set_short_epochs_have_no_checkpoint_within(spec):
    events = []
    trainer.train(spec(epochs=1), events.append)
    assert [event.step for event in checkpoints(events)] == [6]
    assert keeping.MID_EPOCH == 60


@pytest.mark.slow
def test_of_two_processes_the_leader_saves_and_both_go_on_from_there(spec, every_step, tmp_path):
    undisturbed = spec("undisturbed", epochs=2).model_copy(update={"processes": 2})
    watched = Copies(tmp_path / "copies")
    trainer.train(undisturbed, watched)
    assert [event.step for event in checkpoints(watched)] == list(range(1, 13))
    resumed, events = spec("resumed", epochs=2).model_copy(update={"processes": 2}), []
    shutil.copytree(tmp_path / "copies" / "4", resumed.output)
    trainer.train(resumed, events.append)
    assert Resumed(step=4) in events
    assert identical(weights(undisturbed), weights(resumed))


# ---- exactly or not ------------------------------------------------------------------------------


def half_done(run):
    """Trained up to a checkpoint in the middle."""
    events = []
    with pytest.raises(StopRequested):
        trainer.train(run, events.append, lambda: reached(events, 4))
    return checkpoints(events)[-1]


def altered(saved, **changes):
    """The same checkpoint, as another machine would have written it."""
    folder = Path(saved.path).parent
    state = checkpoint.load_resume(folder, print)
    for name, value in changes.items():
        state["circumstances"][name] = value
    for old in folder.glob("resume-*"):
        old.unlink()
    checkpoint.save_resume(folder, state, saved.step)


def resumption(run):
    events = []
    trainer.train(run, events.append)
    said = [event for event in events if isinstance(event, Resumed)]
    assert Log(text=f"Resumed at step {said[0].step}.").text in [
        event.text for event in events if isinstance(event, Log)
    ]
    assert math.isfinite(series(events, "loss/total")[-1][1])  # it went on all the same
    return said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"torch": "1.0"}, f"torch 1.0 → {torch.__version__}"),
        ({"threads": 99}, "99 threads → "),
        ({"processes": 2}, "2 processes → 1 process"),
        ({"device": "abacus (CPU)"}, "another device: abacus (CPU) → "),
        ({"instructions": "ABACUS"}, "another CPU: ABACUS → "),
        ({"engine": "0" * 64}, "another version of the engine"),
        ({"deterministic": False}, "no deterministic mode"),
    ],
)
def test_what_differs_from_the_attempt_before_is_said_and_refuses_nothing(spec, every_step, changes, words):
    run = spec(epochs=1)
    altered(half_done(run), **changes)
    (said,) = resumption(run)
    assert not said.exact
    assert words in said.why
    assert "; " not in said.why  # and nothing else


def test_a_checkpoint_from_before_this_was_kept_is_not_called_exact(spec, every_step):
    run = spec(epochs=1)
    saved = half_done(run)
    folder = Path(saved.path).parent
    state = checkpoint.load_resume(folder, print)
    del state["circumstances"]
    Path(saved.path).unlink()
    checkpoint.save_resume(folder, state, saved.step)
    (said,) = resumption(run)
    assert (said.exact, "does not say" in said.why) == (False, True)


def test_on_a_gpu_the_cpus_threads_do_not_matter_and_its_order_does():
    here = {"torch": "2", "engine": "e", "device": "d", "instructions": "AVX2", "threads": 2, "processes": 1}
    then = here | {"threads": 4, "deterministic": True}
    gpu = torch.device("cuda")
    assert exactness.differences(then, here | {"deterministic": True}, gpu) == []
    (why,) = exactness.differences(then, here | {"deterministic": False}, gpu)
    assert "not fixed" in why


def cached(run, folder, budget=1 << 30):
    return run.model_copy(update={"cache": TeacherCache(folder=str(folder), budget=budget)})


def test_a_teacher_whose_outputs_are_no_longer_cached_is_said_once(spec, every_step, tmp_path):
    plain = spec(epochs=3)
    half_done(cached(plain, tmp_path / "cache"))
    shutil.rmtree(tmp_path / "cache")
    (exact, broken) = resumption(cached(plain, tmp_path / "cache", budget=1))
    assert exact == Resumed(step=4)
    assert (broken.step, broken.exact) == (4, False)
    assert "unrounded (keeping" in broken.why


def test_a_run_that_lost_its_cache_altogether_is_not_exact(spec, every_step, tmp_path):
    plain = spec(epochs=1)
    half_done(cached(plain, tmp_path / "cache"))
    (said,) = resumption(plain)
    assert "no folder for the cache was given" in said.why


def test_without_a_teacher_there_is_nothing_to_cache(spec, every_step):
    run = spec(epochs=1).model_copy(update={"teacher": None, "objective": Objective()})
    half_done(run)
    assert resumption(run) == [Resumed(step=4)]
