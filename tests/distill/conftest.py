"""What the engine's tests share."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from worker.distill.data.prepared import Augmentation, Writer
from worker.distill.spec import ModelRef, RunSpec, Training, two_part

ORACLES = Path(__file__).parents[3] / "shared" / "oracles"


@pytest.fixture(scope="session")
def oracle():
    """case id → (case, arrays): the reference implementations' values."""
    if not (ORACLES / "reference.json").exists():
        pytest.skip(f"reference values are not here: {ORACLES}")
    cases = {case["id"]: case for case in json.loads((ORACLES / "reference.json").read_text())["cases"]}
    arrays = np.load(ORACLES / "reference.npz")
    return lambda case_id: (cases[case_id], arrays)


@pytest.fixture(autouse=True, scope="session")
def _short_latency():
    """Ten forwards are timed, not a second's worth."""
    from worker.distill import compression

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "WARM_UP_SECONDS", 0)
        patch.setattr(compression, "MEASURE_SECONDS", 0)
        yield


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Three classes, easy to tell apart; 37 images to train on, so that batches of 6 leave one over."""
    folder = tmp_path_factory.mktemp("data") / "stripes"
    random = np.random.RandomState(0)
    with Writer(folder, kind="stripes", classes=["a", "b", "c"], channels=1, height=8, width=8) as writer:
        for split, number in (("train", 37), ("val", 12), ("test", 12)):
            labels = np.arange(number) % 3
            images = random.randint(0, 60, (number, 1, 8, 8)).astype(np.uint8)
            for image, label in zip(images, labels, strict=True):
                image[:, label * 2 : label * 2 + 3] += 150
            writer.add(split, images, labels)
        writer.finish(augment=Augmentation(padding=1, flip=True))
    return str(folder)


@pytest.fixture(scope="session")
def teacher(dataset, tmp_path_factory):
    """A teacher trained by the very trainer; its weights file."""
    from worker.distill import checkpoint, trainer

    output = tmp_path_factory.mktemp("teacher")
    run = RunSpec(dataset=dataset, student=ModelRef(architecture="resnet8"), output=str(output), device="cpu")
    trainer.train(run, lambda event: None)
    return str(output / checkpoint.STUDENT)


@pytest.fixture
def spec(dataset, teacher, tmp_path):
    def make(output="run", objective=None, **training):
        training = {"epochs": 3, "batch_size": 6, "learning_rate": 0.02, "seed": 1} | training
        return RunSpec(
            dataset=dataset,
            student=ModelRef(architecture="resnet8"),
            teacher=ModelRef(architecture="resnet8", weights=teacher),
            training=Training(**training),
            objective=objective or two_part(),
            output=str(tmp_path / output),
            device="cpu",
        )

    return make


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own of four megabytes; a real one, which only root may make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk of four megabytes cannot be mounted here (it takes root on Linux)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def read_only(small_disk):
    """A function: from now on nobody may write to the disk, which stops root too."""
    return lambda: subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
