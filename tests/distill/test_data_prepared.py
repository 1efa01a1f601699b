"""The on-disk format: whole or absent, exact, memory-mapped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worker.distill.data import prepared
from worker.distill.data._split import stratified
from worker.distill.data.prepared import Augmentation, Writer, load
from worker.distill.spec import SpecError

rng = np.random.RandomState(0)
IMAGES = rng.randint(0, 256, (20, 3, 8, 8)).astype(np.uint8)
LABELS = np.arange(20) % 2


MARKS = np.stack([np.arange(20) % 2, np.arange(20) % 3 == 0], 1).astype(np.uint8)  # some show none


def write(folder, images=IMAGES, labels=LABELS, test=True, task="single-label", **finish):
    made = {"kind": "made", "classes": ["a", "b"], "channels": 3, "height": 8, "width": 8, "task": task}
    with Writer(folder, **made) as writer:
        writer.add("train", images[:7], labels[:7])
        writer.add("train", images[7:12], labels[7:12])
        writer.add("val", images[12:16], labels[12:16])
        if test:
            writer.add("test", images[16:], labels[16:])
        return writer.finish(**finish)


def test_what_was_written_is_read_back(tmp_path):
    write(tmp_path / "d")
    data = load(tmp_path / "d")
    for name, rows in (("train", slice(0, 12)), ("val", slice(12, 16)), ("test", slice(16, 20))):
        split = data.split(name)
        assert isinstance(split.images, np.memmap)
        assert (split.images == IMAGES[rows]).all()
        assert (split.labels == LABELS[rows]).all()
        assert split.labels.dtype == np.int64
    assert data.meta.sizes == {"train": 12, "val": 4, "test": 4}
    assert data.meta.class_counts == {"train": [6, 6], "val": [2, 2], "test": [2, 2]}


def test_final_numbers_come_from_test_or_else_from_val(tmp_path):
    write(tmp_path / "with")
    write(tmp_path / "without", test=False)
    assert load(tmp_path / "with").evaluation_split == "test"
    without = load(tmp_path / "without")
    assert without.evaluation_split == "val"
    with pytest.raises(SpecError, match="no such split"):
        without.split("test")


def test_mean_and_std_are_those_of_the_training_split(tmp_path):
    meta = write(tmp_path / "d")
    pixels = IMAGES[:12] / 255
    assert np.allclose(meta.mean, pixels.mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(meta.std, pixels.std((0, 2, 3)), atol=1e-6)


def test_published_constants_replace_the_measured_ones(tmp_path):
    meta = write(tmp_path / "d", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert (meta.mean, meta.std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_a_channel_without_spread_does_not_divide_by_zero(tmp_path):
    meta = write(tmp_path / "d", images=np.zeros_like(IMAGES))
    assert meta.std == pytest.approx([1 / 255] * 3, abs=1e-6)


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path):
    one, same = write(tmp_path / "one"), write(tmp_path / "two")
    assert one.fingerprint == same.fingerprint
    changed = IMAGES.copy()
    changed[3, 0, 0, 0] ^= 1
    others = [
        write(tmp_path / "p", images=changed).fingerprint,
        write(tmp_path / "l", labels=1 - LABELS).fingerprint,
        write(tmp_path / "s", test=False).fingerprint,
        write(tmp_path / "a", augment=Augmentation(flip=True)).fingerprint,
    ]
    assert len({one.fingerprint, *others}) == 5


def test_a_dataset_prepared_before_there_were_several_labels_is_still_the_same(tmp_path):
    before = write(tmp_path / "d").fingerprint
    assert before == "7f4eeda8c02e082ea0179b13ccec28cf1e30de3790ec4c49f7a3b9dbe14f6aa0"


def test_several_labels_an_image_are_zeros_and_ones(tmp_path):
    meta = write(tmp_path / "d", labels=MARKS, task="multi-label")
    data = load(tmp_path / "d")
    assert data.meta.task == meta.result()["task"] == "multi-label"
    val = data.split("val")
    assert (val.labels == MARKS[12:16]).all()
    assert (val.labels.dtype, val.labels.shape, len(val)) == (np.uint8, (4, 2), 4)
    assert meta.sizes == {"train": 12, "val": 4, "test": 4}
    assert meta.class_counts == {"train": [6, 4], "val": [2, 2], "test": [2, 1]}


def test_an_image_is_a_sample_of_each_of_its_labels(tmp_path):
    meta = write(tmp_path / "d", labels=MARKS, task="multi-label")
    assert {name: len(files) for name, files in meta.samples.items()} == {"a": 6, "b": 4}
    both = [tmp_path / "d" / meta.samples[name][1] for name in ("a", "b")]  # image 3 shows a and b
    assert both[0].read_bytes() == both[1].read_bytes()


def test_labels_of_the_other_task_are_not_taken(tmp_path):
    for labels, task in ((MARKS, "single-label"), (LABELS, "multi-label"), (MARKS * 2, "multi-label")):
        with pytest.raises(AssertionError):
            write(tmp_path / "d", labels=labels, task=task)
    write(tmp_path / "d", labels=MARKS, task="multi-label")
    meta = tmp_path / "d" / "meta.json"
    meta.write_text(meta.read_text().replace("multi-label", "single-label"))
    with pytest.raises(SpecError, match=r"train_labels\.npy is uint8 \(12, 2\)"):
        load(tmp_path / "d").split("train")


def test_the_task_is_part_of_the_fingerprint(tmp_path):
    with Writer(tmp_path / "m", kind="made", classes=["a"], channels=1, height=2, width=2) as writer:
        writer.add("train", np.zeros((8, 1, 2, 2), np.uint8), np.zeros(8))
        one = writer.finish()
    other = one.model_copy(update={"task": "multi-label"})
    assert prepared._fingerprint(one, {}) != prepared._fingerprint(other, {})


def test_samples_are_png_large_enough_to_see(tmp_path):
    meta = write(tmp_path / "d")
    assert [len(names) for names in meta.samples.values()] == [6, 6]
    with Image.open(tmp_path / "d" / meta.samples["b"][0]) as picture:
        assert picture.format == "PNG"
        assert picture.size == (64, 64)
        assert picture.getpixel((7, 7)) == tuple(int(x) for x in IMAGES[1, :, 0, 0])


def test_a_failed_preparation_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError):
        write(tmp_path / "d", images=IMAGES[:, :2])  # two channels of three
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys, numpy as np
from worker.distill.data.prepared import Writer
with Writer(sys.argv[1], kind="made", classes=["a", "b"], channels=3, height=8, width=8) as writer:
    writer.add("train", np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 0, 1]))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_preparation_shows_no_dataset_and_the_next_one_cleans_up(tmp_path):
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "d"], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "d").exists()
    with pytest.raises(SpecError, match="no prepared dataset"):
        load(tmp_path / "d")
    write(tmp_path / "d")
    assert os.listdir(tmp_path) == ["d"]


def test_preparing_again_replaces_the_dataset(tmp_path):
    write(tmp_path / "d")
    write(tmp_path / "d", test=False)
    assert load(tmp_path / "d").meta.sizes["test"] == 0
    assert os.listdir(tmp_path) == ["d"]


def test_somebody_elses_folder_is_not_touched(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("years of work")
    with pytest.raises(SpecError, match="other files"):
        write(tmp_path / "d")
    assert (tmp_path / "d" / "thesis.tex").exists()


def test_a_damaged_dataset_is_named(tmp_path):
    write(tmp_path / "d")
    images = tmp_path / "d" / "val_images.npy"
    images.write_bytes(images.read_bytes()[:200])
    with pytest.raises(SpecError, match=r"val_images\.npy"):
        load(tmp_path / "d").split("val")


def test_a_stratified_split_takes_exactly_what_is_asked_fairly_and_always_the_same():
    labels = np.repeat([0, 1, 2], [50, 30, 11])
    kept, held = stratified(labels, 18, seed=0)
    assert sorted([*kept, *held]) == list(range(91))
    assert np.bincount(labels[held]).tolist() == [10, 6, 2]
    assert (stratified(labels, 18, seed=0)[1] == held).all()
    assert not (stratified(labels, 18, seed=1)[1] == held).all()


def test_a_stratified_split_never_empties_a_class():
    kept, held = stratified(np.array([0, 0, 1, 2, 2, 2]), 5, seed=0)
    assert np.bincount(np.array([0, 0, 1, 2, 2, 2])[kept]).tolist() == [1, 1, 1]
    assert len(held) == 3


def some_marks(samples, seed=0):
    """Labels of very different frequencies, some together, some images without any."""
    random = np.random.RandomState(seed)
    marks = (random.rand(samples, 5) < [0.5, 0.3, 0.1, 0.04, 0.02]).astype(np.uint8)
    marks[:, 3] |= marks[:, 4]  # a rare label that never comes alone
    return marks


@pytest.mark.parametrize("seed", range(4))
def test_a_multi_label_split_gives_each_label_its_share_and_always_the_same(seed):
    marks = some_marks(1000, seed)
    kept, held = stratified(marks, 150, seed=0)
    assert sorted([*kept, *held]) == list(range(1000))
    assert len(held) == pytest.approx(150, abs=10)
    assert marks[held].sum(0) == pytest.approx(0.15 * marks.sum(0), abs=2)
    assert (~marks[held].any(1)).sum() == pytest.approx(0.15 * (~marks.any(1)).sum(), abs=1)
    assert (stratified(marks, 150, seed=0)[1] == held).all()
    assert not np.array_equal(stratified(marks, 150, seed=1)[1], held)


@pytest.mark.parametrize("seed", range(4))
def test_a_multi_label_split_never_takes_the_last_sample_of_a_label(seed):
    marks = some_marks(24, seed)
    kept, _ = stratified(marks, 12, seed)
    assert (marks[kept].any(0) == marks.any(0)).all()
    assert len(stratified(np.eye(3, dtype=np.uint8), 1, seed)[1]) == 0
