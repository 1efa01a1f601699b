"""The order of the training split, and streaming it from disk: the same batches, from a thread that ends."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worker.distill.batches import AHEAD, Batches, ahead
from worker.distill.data.prepared import Split
from worker.distill.spec import SpecError

CPU = torch.device("cpu")
SAMPLES = 37


@pytest.fixture
def split(tmp_path):
    """Memory-mapped, as a prepared dataset's."""
    random = np.random.RandomState(0)
    np.save(tmp_path / "images.npy", random.randint(0, 256, (SAMPLES, 3, 4, 4)).astype(np.uint8))
    return Split(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(SAMPLES) % 5)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("batches")]


def same(a, b):
    fields = ("images", "labels", "index")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)


def streamed(split, monkeypatch, size=6, seed=3):
    with monkeypatch.context() as patch:
        patch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
        made = Batches(split, size, seed, CPU)
    assert made.images is None
    return made


@pytest.mark.parametrize(("size", "steps"), [(6, 6), (7, 6), (36, 1), (37, 1), (100, 1), (1, 37)])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_streamed_batches_are_the_resident_ones(split, monkeypatch, size, steps, start):
    resident, mapped = Batches(split, size, 3, CPU), streamed(split, monkeypatch, size)
    assert resident.images is not None
    for epoch in (0, 1):
        pairs = list(zip(resident.epoch(epoch, start), mapped.epoch(epoch, start), strict=True))
        assert len(pairs) == max(steps - start, 0)
        assert all(same(a, b) for a, b in pairs)
    assert threads() == []


def test_every_batch_is_of_the_images_it_names(split, monkeypatch):
    seen = []
    for batch in streamed(split, monkeypatch).epoch(0):
        assert (batch.images.numpy() == split.images[batch.index.numpy()]).all()
        assert (batch.labels.numpy() == split.labels[batch.index.numpy()]).all()
        seen += batch.index.tolist()
    assert len(set(seen)) == len(seen) == 36


@pytest.mark.parametrize("available", [0, 1 << 40])
def test_labels_of_several_classes_keep_their_rows_and_type(split, monkeypatch, available):
    marks = (np.random.RandomState(1).rand(SAMPLES, 4) < 0.5).astype(np.uint8)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=available))
    for batch in Batches(Split(split.images, marks), 6, 0, CPU).epoch(0):
        assert (batch.labels.dtype, batch.labels.shape) == (torch.uint8, (6, 4))
        assert (batch.labels.numpy() == marks[batch.index.numpy()]).all()


def test_a_split_of_one_image_is_refused(split):
    with pytest.raises(SpecError, match="too few training images"):
        Batches(Split(split.images[:1], split.labels[:1]), 6, 0, CPU)


# ---- the thread


def test_a_few_parts_are_made_beforehand_and_no_more():
    made = []

    def make(part):
        made.append(part)
        return part

    iterator = ahead(make, list(range(10)))
    for k in range(10):
        assert next(iterator) == k
        wait_until(lambda k=k: len(made) == min(k + AHEAD + 1, 10))
    assert next(iterator, "end") == "end"
    assert made == list(range(10))


def wait_until(condition):
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_the_next_batch_is_read_while_the_last_one_is_used():
    """The consumer waits for the thread's next part before it gives the last one back: no deadlock."""
    started = [threading.Event() for _ in range(5)]

    def make(part):
        started[part].set()
        return part

    for part in ahead(make, list(range(5))):
        assert started[min(part + 1, 4)].wait(5)


def test_what_goes_wrong_is_raised_at_its_place(split, monkeypatch):
    mapped = streamed(split, monkeypatch)
    order, gather = mapped.order(0), mapped._gather

    def torn(index):
        if index[0] == order[4 * 6]:
            raise OSError("the disk is gone")
        return gather(index)

    monkeypatch.setattr(mapped, "_gather", torn)
    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(mapped.epoch(0))
    assert len(seen) == 4
    assert threads() == []


@pytest.mark.parametrize("used", [0, 1, 3])
def test_a_consumer_that_stops_early_ends_the_thread(split, monkeypatch, used):
    iterator = streamed(split, monkeypatch).epoch(0)
    for _ in range(used):
        next(iterator)
    assert len(threads()) == min(used, 1)
    iterator.close()
    assert threads() == []


def test_a_forgotten_iterator_ends_the_thread(split, monkeypatch):
    for _ in streamed(split, monkeypatch).epoch(0):
        break
    wait_until(lambda: threads() == [])


def test_nothing_more_is_read_once_the_consumer_has_stopped():
    made, go = [], threading.Event()

    def make(part):
        made.append(part)
        if part:
            assert go.wait(5)
        return part

    iterator = ahead(make, list(range(10)))
    next(iterator)
    threading.Timer(0.05, go.set).start()
    iterator.close()
    assert made in ([0], [0, 1])  # 1 was under way
