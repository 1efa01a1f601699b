"""The kinds of datasets: found by listing the folder, converted to one format."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from worker.distill.data import kinds, prepare
from worker.distill.data._idx import read_idx
from worker.distill.data.prepared import load
from worker.distill.errors import StopRequested
from worker.distill.events import Log, Phase
from worker.distill.spec import PrepareSpec, SpecError

FASHION = Path(__file__).parents[3] / "shared" / "data" / "fashion-mnist"
RESULT = {
    *("task", "classes", "channels", "height", "width", "sizes", "mean", "std", "class_counts"),
    *("augmentation", "fingerprint", "samples", "skipped", "warnings"),
}


def run(kind, output, report=lambda event: None, **fields):
    return prepare(PrepareSpec(kind=kind, output=str(output), **fields), report)


def test_keys_ever_released_stay():
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "image_folder"} <= set(kinds())


@pytest.mark.parametrize("key", sorted(kinds()))
def test_every_kind_describes_itself(key):
    kind = kinds()[key]
    assert key == kind.KEY
    assert kind.TITLE
    assert kind.SUMMARY.endswith(".")
    assert kind.SOURCE in ("bundled", "download", "upload")
    for name, field in kind.Options.model_json_schema()["properties"].items() if key != "digits" else ():
        assert "default" in field, name
        assert field.get("description"), name


def test_an_unknown_kind_names_the_known_ones(tmp_path):
    with pytest.raises(SpecError, match=r"kind = 'imagenet'.*digits"):
        run("imagenet", tmp_path / "d")


def test_options_are_checked_by_name_and_value(tmp_path):
    with pytest.raises(SpecError, match=r"options\.image_size = 4:"):
        run("image_folder", tmp_path / "d", source="x.zip", options={"image_size": 4})
    with pytest.raises(SpecError, match=r"options\.colour_map"):
        run("image_folder", tmp_path / "d", source="x.zip", options={"colour_map": "jet"})


def test_an_upload_kind_asks_for_its_source(tmp_path):
    with pytest.raises(SpecError, match="source = None"):
        run("image_folder", tmp_path / "d")


def test_digits_come_without_a_download(tmp_path):
    events = []
    result = run("digits", tmp_path / "d", events.append)
    assert set(result) == RESULT
    assert result["sizes"] == {"train": 1257, "val": 180, "test": 360}
    assert (result["channels"], result["height"], result["width"]) == (1, 8, 8)
    assert [type(event) for event in events] == [Phase, Log]
    assert "mirror" not in " ".join(result["augmentation"])


def test_digits_are_the_same_wherever_and_whenever_they_are_prepared(tmp_path):
    prints = {run("digits", tmp_path / str(i))["fingerprint"] for i in range(2)}
    assert len(prints) == 1


def test_a_stop_ends_a_preparation_without_a_trace(tmp_path):
    spec = PrepareSpec(kind="digits", output=str(tmp_path / "d"))
    with pytest.raises(StopRequested):
        prepare(spec, lambda event: None, lambda: True)
    assert list(tmp_path.iterdir()) == []


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def fashion(folder, packed=True, train=400, **changes):
    """Four small IDX files, laid out as Fashion-MNIST's."""
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for name, number in (("train", train), ("t10k", 50)):
        images = random.randint(0, 256, (number, 28, 28)).astype(np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        files = {f"{name}-images-idx3-ubyte": idx(images), f"{name}-labels-idx1-ubyte": idx(labels)}
        for file, content in (files | {k: v for k, v in changes.items() if k.startswith(name)}).items():
            path = folder / (f"{file}.gz" if packed else file)
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_idx_files_are_found_plain_or_packed_where_torchvision_puts_them_too(tmp_path, packed, below):
    fashion(tmp_path / "source" / below, packed)
    source, options = str(tmp_path / "source"), {"validation": 100}
    result = run("fashion_mnist", tmp_path / "d", source=source, options=options)
    assert result["sizes"] == {"train": 300, "val": 100, "test": 50}
    assert result["class_counts"]["val"] == [10] * 10
    assert (result["mean"], result["std"]) == ([0.286], [0.353])


def test_train_and_val_are_the_training_file_parted(tmp_path):
    source = fashion(tmp_path / "source")
    run("mnist", tmp_path / "d", source=str(source), options={"validation": 100})
    data = load(tmp_path / "d")
    whole = read_idx(source / "train-images-idx3-ubyte.gz", 3).reshape(400, -1)
    parts = np.concatenate([data.split(s).images.reshape(-1, 784) for s in ("train", "val")])
    assert sorted(map(bytes, parts)) == sorted(map(bytes, whole))


def test_a_folder_without_the_files_says_which_is_missing(tmp_path):
    with pytest.raises(SpecError, match="train-images-idx3-ubyte"):
        run("mnist", tmp_path / "d", source=str(tmp_path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\0\0\x08", "cut off"),
        (idx(np.zeros((400, 28, 28), np.uint8))[:-1], "should hold"),
        (idx(np.zeros((400, 28), np.uint8)), "not an IDX file"),
        (struct.pack(">IIII", 0x803, 2**31, 2**31, 28), "claims the shape"),
        (idx(np.zeros((300, 28, 28), np.uint8)), "300 images"),
    ],
)
def test_a_wrong_idx_file_is_named(tmp_path, content, problem):
    source = fashion(tmp_path / "source", **{"train-images-idx3-ubyte": content})
    with pytest.raises(SpecError, match=problem):
        run("fashion_mnist", tmp_path / "d", source=str(source))
    assert not (tmp_path / "d").exists()


def test_a_packed_idx_file_cut_off_is_named(tmp_path):
    source = fashion(tmp_path / "source")
    path = source / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SpecError, match="cut off or damaged"):
        run("fashion_mnist", tmp_path / "d", source=str(source), options={"validation": 100})


def test_more_validation_than_training_images_is_refused(tmp_path):
    source = fashion(tmp_path / "source")
    with pytest.raises(SpecError, match=r"options\.validation = 5000: the training set has only 400"):
        run("fashion_mnist", tmp_path / "d", source=str(source))


@pytest.mark.skipif(not FASHION.exists(), reason=f"Fashion-MNIST is not here: {FASHION}")
def test_the_real_fashion_mnist(tmp_path):
    result = run("fashion_mnist", tmp_path / "d", source=str(FASHION))
    assert result["sizes"] == {"train": 55_000, "val": 5_000, "test": 10_000}
    assert result["class_counts"]["val"] == [500] * 10
    pixels = load(tmp_path / "d").split("train").images
    assert abs(pixels.mean() / 255 - result["mean"][0]) < 1e-3  # the published constant is of these images


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("/tmp/kdweb-pwned-marker"),)


@pytest.mark.parametrize(
    ("kind", "folder", "name"),
    [("cifar10", "cifar-10-batches-py", "data_batch_1"), ("cifar100", "cifar-100-python", "train")],
)
def test_a_cifar_pickle_that_is_not_the_authors_is_never_opened(tmp_path, kind, folder, name):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SpecError, match="published checksums"):
        run(kind, tmp_path / "d", source=str(tmp_path))
    assert not Path("/tmp/kdweb-pwned-marker").exists()


class Opened:
    """What torchvision's loader holds once its checksums are right."""

    def __init__(self, number):
        self.data = np.random.RandomState(number).randint(0, 256, (number, 32, 32, 3)).astype(np.uint8)
        self.targets = [i % 10 for i in range(number)]
        self.classes = [f"class {i}" for i in range(10)]


def test_cifar_images_keep_their_pixels(tmp_path):
    from worker.distill.data import _cifar, cifar10

    train, test = Opened(2000), Opened(20)
    options = _cifar.Options(validation=500)
    meta = _cifar._convert(cifar10.CIFAR10, options, (train, test), tmp_path / "d")
    assert meta.sizes == {"train": 1500, "val": 500, "test": 20}
    images = load(tmp_path / "d").split("test").images
    assert (images[3, :, 4, 5] == test.data[3, 4, 5]).all()
