"""Several labels an image, from the data to the result: made ones, and photographs of blood cells."""

import json
import math
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments.models import Dataset
from tests.distill.runs import identical, series, stopped_at, weights
from worker.distill import checkpoint, methods, trainer
from worker.distill.data import prepare
from worker.distill.data.prepared import Augmentation, Writer, load
from worker.distill.spec import ModelRef, Objective, PrepareSpec, RunSpec, SpecError, Term, Training
from worker.short import described_by

BLOOD = Path(__file__).parents[3] / "shared" / "data" / "bccd" / "bccd-voc.zip"
LABELS = ["left", "middle", "right"]
KD_AND_FITNET = Objective(
    task_weight=0.5,
    terms=[
        Term(method="kd", weight=0.5, params={"temperature": 2.0}),
        Term(method="fitnet", weight=0.1),
    ],
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three stripes, each there or not; 61 images to train on, some without any label."""
    folder = tmp_path_factory.mktemp("data") / "stripes"
    random = np.random.RandomState(0)
    made = {"kind": "made", "classes": LABELS, "channels": 1, "height": 8, "width": 8, "task": "multi-label"}
    with Writer(folder, **made) as writer:
        for split, number in (("train", 61), ("val", 24), ("test", 24)):
            marks = random.randint(0, 2, (number, 3)).astype(np.uint8)
            images = random.randint(0, 60, (number, 1, 8, 8)).astype(np.uint8)
            for label in range(3):
                images[marks[:, label] == 1, :, :, 3 * label : 3 * label + 2] += 150
            writer.add(split, images, marks)
        writer.finish(augment=Augmentation(padding=1))
    return str(folder)


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    """A teacher trained on the labels alone; what its training reported, its result, its weights' file."""
    run = asked(dataset, tmp_path_factory.mktemp("teacher"), epochs=10)
    events = []
    result = trainer.train(run, events.append)
    return events, result, f"{run.output}/{checkpoint.STUDENT}"


def asked(dataset, output, teacher=None, objective=None, **training):
    settings = {"batch_size": 8, "learning_rate": 0.05, "seed": 1} | training
    return RunSpec(
        dataset=dataset,
        student=ModelRef(architecture="resnet8"),
        teacher=ModelRef(architecture="resnet8", weights=teacher[2]) if teacher else None,
        training=Training(**settings),
        objective=objective or Objective(),
        output=str(output),
        device="cpu",
    )


def test_a_teacher_learns_the_labels(teacher):
    events, result, _ = teacher
    assert [name for name in ("loss/bce", "train/f1") if not series(events, name)] == []
    assert series(events, "train/top1") == series(events, "val/top1") == []
    precision = [value for _, value in series(events, "val/map")]
    assert len(precision) == len(series(events, "val/f1")) == 10
    assert result["student"]["map"] > 0.95  # the stripes are easy to see; chance is about one half
    assert result["student"]["f1_micro"] > 0.8
    assert json.loads(json.dumps(result)) == result


def test_a_student_distilled_from_it_is_measured_as_it_is(dataset, teacher, tmp_path):
    events = []
    run = asked(dataset, tmp_path / "run", teacher, KD_AND_FITNET, epochs=4)
    result = trainer.train(run, events.append)
    columns = (dict(series(events, f"loss/{name}")) for name in ("total", "bce", "kd", "fitnet"))
    for total, bce, kd, fitnet in zip(*(column.values() for column in columns), strict=True):
        assert total == pytest.approx(0.5 * bce + 0.5 * kd + 0.1 * fitnet, rel=1e-5)
    assert [step for step, _ in series(events, "val/map")] == [8, 16, 24, 32]
    student, theirs = result["student"], result["teacher"]
    assert student["map"] == pytest.approx(np.mean(student["average_precision"]))
    assert student["map"] > 0.7
    assert theirs["map"] == teacher[1]["student"]["map"]
    assert student["agreement"] > 0.6
    assert (student["top1"], student["per_class"], student["confusion"]) == (None, None, None)


def test_a_stopped_run_ends_with_the_undisturbed_ones_weights(dataset, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)
    undisturbed, stopped = (
        asked(dataset, tmp_path / name, teacher, KD_AND_FITNET, epochs=2, mixup=0.4, ema_decay=0.9)
        for name in ("undisturbed", "stopped")
    )
    trainer.train(undisturbed, lambda event: None)
    events = []
    stopped_at(stopped, (3, 8, 13), events)
    trainer.train(stopped, events.append)
    assert identical(weights(undisturbed), weights(stopped))


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(methods.discover().methods))
def test_every_method_trains_on_several_labels_or_says_that_it_cannot(dataset, teacher, tmp_path, key):
    kind = methods.get(key)
    params = {"prelude_epochs": 1} if "prelude_epochs" in kind.Params.model_fields else {}
    objective = Objective(terms=[Term(method=key, weight=0.1, params=params)])
    run, events = asked(dataset, tmp_path / "run", teacher, objective, epochs=1), []
    if "multi-label" not in kind.task_forms:
        with pytest.raises(SpecError, match=rf"terms\[0\]\.method = '{key}'.*no form for multi-label data"):
            trainer.train(run, events.append)
        return
    result = trainer.train(run, events.append)
    losses = [value for _, value in series(events, f"loss/{key}")]
    assert losses
    assert all(map(math.isfinite, losses))
    assert 0 < result["student"]["map"] <= 1


def test_dkd_tells_one_label_from_the_rest_and_is_refused(dataset, teacher, tmp_path):
    run = asked(dataset, tmp_path / "run", teacher, Objective(terms=[Term(method="dkd")]), epochs=1)
    with pytest.raises(SpecError, match=r"'dkd'.*no form for multi-label data.*e\.g\. kd"):
        trainer.train(run, lambda event: None)


def test_balanced_labels_weigh_negatives_by_positives(dataset, tmp_path):
    run = trainer.assemble(
        asked(dataset, tmp_path / "run", objective=Objective(class_weights="balanced")),
        trainer.pick_device("cpu"),
        lambda event: None,
    )
    positive = np.asarray(load(dataset).split("train").labels).sum(0)
    assert run.loss.class_weights.numpy() == pytest.approx((61 - positive) / positive, rel=1e-6)


# ---- photographs -----------------------------------------------------------------------------------


def blood_cells(folder):
    """An archive of every third photograph, with the kinds of cells it shows in a table."""
    path = folder / "cells.zip"
    with zipfile.ZipFile(BLOOD) as voc, zipfile.ZipFile(path, "w") as archive:
        lines = ["file,labels"]
        for name in sorted(n for n in voc.namelist() if n.endswith(".xml"))[::3]:
            shown = sorted(set(re.findall(r"<name>(\w+)</name>", voc.read(name).decode())))
            stem = Path(name).stem
            lines.append(f"cells/{stem}.jpg,{'|'.join(shown)}")
            archive.writestr(f"cells/{stem}.jpg", voc.read(f"BCCD/JPEGImages/{stem}.jpg"))
        archive.writestr("labels.csv", "\n".join(lines))
    return path, lines[1:]


@pytest.mark.skipif(not BLOOD.exists(), reason=f"the photographs of blood cells are not here: {BLOOD}")
def test_photographs_of_blood_cells_are_prepared_and_learnt(tmp_path):
    path, lines = blood_cells(tmp_path)
    spec = PrepareSpec(
        kind="image_folder", source=str(path), output=str(tmp_path / "data"), options={"image_size": 64}
    )
    result = prepare(spec, lambda event: None)
    assert result["classes"] == ["Platelets", "RBC", "WBC"]
    assert sum(result["sizes"].values()) == len(lines) == 122
    for label, name in enumerate(result["classes"]):
        counted = [counts[label] for counts in result["class_counts"].values()]
        assert sum(counted) == sum(name in line for line in lines)
        assert counted[1] == pytest.approx(0.15 * sum(counted), abs=1.5)  # the validation share
    assert Dataset(**described_by(result)).multi_label

    events = []
    run = asked(spec.output, tmp_path / "run", epochs=2, batch_size=16)
    trained = trainer.train(run, events.append)
    precision = [value for _, value in series(events, "val/map")]
    assert len(precision) == 2
    assert all(map(math.isfinite, precision))
    losses = [value for _, value in series(events, "loss/bce")]
    assert losses[-1] < losses[0]
    student = trained["student"]
    assert 0 < student["f1_micro"] <= 1
    assert student["map"] == pytest.approx(precision[-1])  # there is no test split: validation is the judge
    assert student["split"] == "val"
    assert len(student["average_precision"]) == 3
    assert {"parameters", "exact_match", "ece", "loss"} <= student.keys()
