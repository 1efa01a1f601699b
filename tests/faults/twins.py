"""The undisturbed twin: the same spec trained once, alone, by a child of the test process.

A run that was killed, moved and resumed must end as its twin did: the same weights bit for bit, the same
points in every curve that does not measure time, and every step exactly once.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import metric_store, runspec
from experiments.metric_store import Points
from experiments.models import Artifact, Run
from worker.distill.events import Checkpoint, Metrics, Result
from worker.supervisor import Engine

# What depends on the seed alone; throughput, memory and the like depend on the hour.
DETERMINISTIC = ("loss/", "train/", "val/", "lr", "weight/", "dial/")
# The engine says what stands still once a block, and where a block ends depends on the clock.
SPARSE = ("weight/", "dial/")


class Twin(NamedTuple):
    sha256: str  # of student.safetensors
    series: dict[str, Points]
    result: dict[str, Any]


_kept: dict[str, Twin] = {}


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="kdweb-twin-")  # goes with the process


def twin(run: Run) -> Twin:
    """Trains what the run trains, where that was not done before in this process."""
    spec = runspec.build(run).model_dump()
    output = Path(_folder().name) / f"{len(_kept)}"
    cache_folder = {"folder": str(output / "cache"), "budget": 2**30} if spec["cache"] else None
    key = _key(spec, run)
    if key not in _kept:
        _kept[key] = _train(spec | {"output": str(output), "cache": cache_folder}, output)
    return _kept[key]


def _key(spec: dict[str, Any], run: Run) -> str:
    """The spec without what differs between sites: paths become the content behind them."""

    def plain(model: dict[str, Any] | None) -> dict[str, Any] | None:
        weights = model and model["weights"]
        return model | {"weights": sha256(Path(weights))} if model and weights else model

    same = {"dataset": run.dataset.fingerprint, "output": "", "cache": bool(spec["cache"])}
    same |= {
        "teacher": plain(spec["teacher"]),
        "more_teachers": [plain(model) for model in spec["more_teachers"]],
    }
    return json.dumps(spec | same, sort_keys=True)


def _train(spec: dict[str, Any], output: Path) -> Twin:
    output.mkdir()
    file = output / "spec.json"
    file.write_text(json.dumps(spec))
    engine = Engine([sys.executable, "-m", "worker.distill", "train", str(file)])
    blocks: dict[str, list[Points]] = defaultdict(list)
    sha = ""
    try:
        while not engine.done:
            for event in engine.read(0.1):
                match event:
                    case Metrics(steps=steps, values=values, wall=wall):
                        for name, column in values.items():
                            blocks[name].append(metric_store.points(steps, column, wall))
                    case Checkpoint(kind="student", sha256=digest):
                        sha = digest
        assert isinstance(engine.ending, Result), (
            f"the twin did not train: {engine.ending or engine.reason()}"
        )
        series = {name: metric_store.join(parts) for name, parts in blocks.items()}
        return Twin(sha, series, engine.ending.data)
    finally:
        engine.close()


def assert_same(run: Run, other: Twin | None = None) -> None:
    """The run succeeded, and nothing in weights or curves tells what it went through."""
    run = Run.objects.get(pk=run.pk)
    assert run.status == Run.Status.SUCCEEDED, f"{run.status}: {run.reason}"
    other = other or twin(run)
    artifact = run.artifacts.filter(kind=Artifact.Kind.STUDENT).order_by("-fence")[0]
    assert sha256(artifact.full_path) == artifact.sha256, "the file is not what its row says"
    assert_same_curves(run, other)
    assert artifact.sha256 == other.sha256, "the weights differ from the undisturbed run's"


def assert_same_curves(run: Run, other: Twin) -> None:
    mine = {series.name: metric_store.read(series, width=10**7) for series in run.series.all()}
    assert deterministic(mine) == deterministic(other.series), "other series than the undisturbed run's"
    for name in deterministic(mine):
        assert np.all(np.diff(mine[name].step) > 0), f"{name}: a step is there twice"
        if name.startswith(SPARSE):
            assert _changes(mine[name]) == _changes(other.series[name]), f"{name}: other values"
        else:
            _assert_same_points(name, mine[name], other.series[name])


def _assert_same_points(name: str, mine: Points, other: Points) -> None:
    here, there = set(mine.step.tolist()), set(other.step.tolist())
    assert here == there, f"{name}: without steps {sorted(there - here)}, too many {sorted(here - there)}"
    differ = np.flatnonzero(~np.isclose(mine.value, other.value, rtol=0, atol=0, equal_nan=True))
    assert not len(differ), f"{name}: first differs at step {mine.step[differ[0]]}"


def _changes(points: Points) -> list[float]:
    """The values in their order, each as long as it stands once."""
    return [float(points.value[0]), *points.value[1:][np.diff(points.value) != 0].tolist()]


def deterministic(names: dict[str, Points]) -> list[str]:
    return sorted(name for name in names if name.startswith(DETERMINISTIC))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
