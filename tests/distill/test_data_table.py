"""Labels from a table beside the images: read, or the line that is wrong is named."""

import numpy as np
import pytest

from tests.distill.test_data_image_folder import png, refused, run, tarred, tree, unpacked, zipped
from worker.distill.data.prepared import load

IMAGES = {f"{i}.png": png((20 * i, 0, 0)) for i in range(8)}
MANY = ["cat|dog", "cat", "", "dog", "cat | dog", "dog", "cat", ""]
ONE = ["cat", "dog"] * 4


def table(labels, files=IMAGES, header="file,labels"):
    return "\n".join([header, *(f"{f},{named}" for f, named in zip(files, labels, strict=True))]).encode()


def below(folder, entries):
    return {f"{folder}/{name}": content for name, content in entries.items()}


def packed(tmp_path, entries, **images):
    return zipped(tmp_path / "a.zip", entries | (images or IMAGES))


# ---- what is read


def test_several_labels_an_image_or_none_are_multi_label(tmp_path):
    result = run(tmp_path, packed(tmp_path, {"labels.csv": table(MANY)}))
    assert (result["task"], result["classes"]) == ("multi-label", ["cat", "dog"])
    assert result["sizes"]["train"] + result["sizes"]["val"] == 8
    assert "set aside for validation" in " ".join(result["warnings"])
    data = load(tmp_path / "prepared")
    marks = {}
    for split in ("train", "val"):
        part = data.split(split)
        for image, labels in zip(part.images, part.labels, strict=True):
            marks[int(image[0, 4, 4]) // 20] = labels.tolist()
    assert marks == {0: [1, 1], 1: [1, 0], 2: [0, 0], 3: [0, 1], 4: [1, 1], 5: [0, 1], 6: [1, 0], 7: [0, 0]}


def test_one_label_an_image_is_the_dataset_that_class_folders_give(tmp_path):
    folders = {f"{label}/{name}": IMAGES[name] for name, label in zip(IMAGES, ONE, strict=True)}
    by_folder = run(tmp_path, zipped(tmp_path / "b.zip", folders))
    by_table = run(tmp_path, packed(tmp_path, {"labels.csv": table(ONE)}))
    assert by_table["task"] == "single-label"
    same = ("classes", "sizes", "class_counts", "skipped")
    assert [by_table[name] for name in same] == [by_folder[name] for name in same]


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
@pytest.mark.parametrize("wrapping", ["", "pets/"])
def test_splits_by_folder_with_one_table_or_one_each(tmp_path, kind, wrapping):
    files = below("Train", IMAGES) | below("valid", IMAGES)
    whole = files | {"labels.csv": table(MANY * 2, files)}
    parts = files | {"Train/labels.csv": table(MANY), "valid/Labels.CSV": table(MANY)}
    prints = set()
    for number, entries in enumerate((whole, parts)):
        named = {wrapping + name: content for name, content in entries.items()}
        pack = {"zip": zipped, "tar": tarred, "folder": unpacked}[kind]
        result = run(tmp_path, pack(tmp_path / f"source{number}", named))
        assert result["sizes"] == {"train": 8, "val": 8, "test": 0}
        assert result["class_counts"] == {"train": [4, 4], "val": [4, 4]}
        assert result["skipped"] == []
        prints.add(result["fingerprint"])
    assert len(prints) == 1


def test_images_without_a_row_are_left_out_with_the_reason(tmp_path):
    entries = {"labels.csv": table(MANY), "more/9.png": png(), "notes.txt": b"hello"}
    result = run(tmp_path, packed(tmp_path, entries))
    left = {one["name"]: one["reason"] for one in result["skipped"]}
    assert left == {"more/9.png": "has no row in labels.csv", "notes.txt": "not an image file (.txt)"}
    assert sum(result["sizes"].values()) == 8


def test_a_table_as_a_spreadsheet_writes_it(tmp_path):
    names = {"Mu\u0308nze, alt.png": png(), **{f"sub/{i}.png": png((i, i, 0)) for i in range(3)}}
    lines = [
        "\ufeffFile,Labels",
        '"M\u00fcnze, alt.png",a',
        './sub/0.png,"a|b"',
        "",
        "sub/1.png,b",
        "sub/2.png,",
    ]
    text = "\r\n".join(lines)
    result = run(tmp_path, zipped(tmp_path / "a.zip", names | {"labels.csv": text.encode()}))
    assert (result["task"], result["classes"]) == ("multi-label", ["a", "b"])
    assert sum(result["sizes"].values()) == 4


def test_a_table_deep_inside_is_no_table(tmp_path):
    folders = tree("train/cat", "train/dog", "val/cat", "val/dog")
    result = run(tmp_path, zipped(tmp_path / "a.zip", folders | {"train/cat/labels.csv": b"x"}))
    assert result["sizes"] == {"train": 8, "val": 8, "test": 0}
    assert [one["name"] for one in result["skipped"]] == ["train/cat/labels.csv"]


def test_a_label_that_val_lacks_is_only_wrong_where_each_image_has_one(tmp_path):
    files = below("train", IMAGES) | below("val", {"0.png": png()})
    many = zipped(tmp_path / "many.zip", files | {"labels.csv": table([*MANY, "cat"], files)})
    assert run(tmp_path, many)["class_counts"]["val"] == [1, 0]


def test_one_label_an_image_can_be_asked_to_be_multi_label(tmp_path):
    files = below("train", IMAGES) | below("val", {"0.png": png()})
    rows = zipped(tmp_path / "rows.zip", files | {"labels.csv": table([*ONE, "cat"], files)})
    folders = {f"train/{label}/{name}": IMAGES[name] for name, label in zip(IMAGES, ONE, strict=True)}
    tidy = zipped(tmp_path / "tidy.zip", folders | {"val/cat/0.png": png()})
    for source in (rows, tidy):
        result = run(tmp_path, source, multi_label=True)
        assert result["task"] == "multi-label"
        assert result["class_counts"] == {"train": [4, 4], "val": [1, 0]}
        labels = load(tmp_path / "prepared").split("train").labels
        assert (labels.dtype, labels.sum(1).tolist()) == (np.uint8, [1] * 8)
    (tmp_path / "one").mkdir()
    refused(tmp_path / "one", tidy, "val has no images of the classes dog")


def test_broken_images_leave_and_a_label_lost_with_them_is_named(tmp_path):
    broken = IMAGES | {"1.png": b"broken"}
    result = run(tmp_path, packed(tmp_path, {"labels.csv": table(MANY)}, **broken))
    assert [one["name"] for one in result["skipped"]] == ["1.png"]
    lonely = ["cat|bird" if name == "1.png" else "dog" for name in IMAGES]
    (tmp_path / "lonely").mkdir()
    source = packed(tmp_path, {"labels.csv": table(lonely)}, **broken)
    refused(tmp_path / "lonely", source, "no readable images: bird, cat")


def test_equal_images_with_different_labels_are_warned_of(tmp_path):
    twins = dict.fromkeys(IMAGES, png())
    warnings = run(tmp_path, packed(tmp_path, {"labels.csv": table(MANY)}, **twins))["warnings"]
    assert any("under different labels, byte for byte" in warning for warning in warnings)


# ---- what is wrong is named: file, line, fix

TWO = below("train", IMAGES)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"labels.csv": b""}, r"labels\.csv line 1: the header is empty.*Write file,labels"),
        ({"labels.csv": table(MANY, header="file;labels")}, r"labels\.csv line 1: the header is file;labels"),
        ({"labels.csv": table(MANY, header="id,breed")}, r"the header is id,breed.*remove the table"),
        ({"labels.csv": b"file,labels\n"}, r"labels\.csv: no line .* names a label"),
        ({"labels.csv": table([""] * 8)}, r"labels\.csv: no line .* names a label"),
        ({"labels.csv": table(["cat", *[""] * 7])}, r"only one label \(cat\).*Name what the other"),
        ({"labels.csv": table(MANY) + b"\n9.png,cat"}, r"labels\.csv line 10: there is no image 9\.png.*Add"),
        ({"labels.csv": table(MANY) + b"\n,cat"}, r"line 10: there is no image without a name"),
        ({"labels.csv": table(MANY) + b"\n../x.png,cat"}, r"line 10: there is no image \.\./x\.png"),
        ({"labels.csv": table(MANY) + b"\n3.png,cat"}, r"line 10: 3\.png has a row already .*line 5\)"),
        ({"labels.csv": table(MANY) + b"\n3.png,cat,dog"}, r"line 10: 3 columns.*Part labels by \|"),
        ({"labels.csv": table(["cat||dog", *MANY[1:]])}, r"line 2: a label is empty in cat\|\|dog"),
        ({"labels.csv": table(["cat|cat", *MANY[1:]])}, r"line 2: a label is there twice in cat\|cat"),
        ({"labels.csv": table(["x" * 101, *MANY[1:]])}, r"label name x+ is longer than 100"),
        ({"labels.csv": table(MANY).replace(b"cat", b'"cat')}, r"labels\.csv line \d+: it is no CSV"),
        ({"labels.csv": table(MANY).decode().encode("utf-16")}, r"labels\.csv is not UTF-8.*Save it"),
        ({"labels.csv": table(MANY), "train/labels.csv": b""}, r"there is labels\.csv and also train/labels"),
        ({"new/labels.csv": table(MANY)}, r"new/labels\.csv lies in the folder new, which is no split"),
        (
            TWO | {"labels.csv": table([*MANY, *MANY], TWO | IMAGES)},
            r"labels\.csv line 10: 0\.png lies in no folder, which is no split.*Move it to train/",
        ),
        (
            TWO | below("new", IMAGES) | {"labels.csv": table(MANY * 2, TWO | below("new", IMAGES))},
            r"labels\.csv line 10: new/0\.png lies in the folder new, which is no split",
        ),
        (
            below("val", IMAGES) | {"labels.csv": table(MANY, below("val", IMAGES))},
            r"no line is of the train folder",
        ),
        (
            TWO
            | below("Training", IMAGES)
            | {"labels.csv": table(MANY * 2, TWO | below("Training", IMAGES))},
            r"several folders mean the same split: Training, train",
        ),
        (
            TWO | {"val/0.png": png(), "labels.csv": table([*MANY, "bird"], [*TWO, "val/0.png"])},
            r"val has classes that train has not: bird",
        ),
        (
            TWO | {"val/0.png": png(), "labels.csv": table([*ONE, "cat"], [*TWO, "val/0.png"])},
            r"val has no images of the classes dog",
        ),
    ],
)
def test_a_wrong_table_is_named(tmp_path, entries, problem):
    error = refused(tmp_path, packed(tmp_path, entries), problem)
    assert error.field == "source"
    assert error.fix


def test_a_bomb_of_a_table_is_refused_by_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.distill.data._container.MAX_ENTRY_BYTES", 1000)
    rows = "\n".join(["file,labels", *["0.png,cat"] * 500]).encode()
    refused(tmp_path, packed(tmp_path, {"labels.csv": rows}), "unpacks to|allowed are")


def test_names_from_a_table_are_shown_escaped(tmp_path):
    entries = {"labels.csv": table(MANY) + b"\na\x1b[31m.png,cat"}
    error = refused(tmp_path, packed(tmp_path, entries), "line 10")
    assert "\x1b" not in str(error)


def test_labels_are_uint8_and_fit_the_classes(tmp_path):
    run(tmp_path, packed(tmp_path, {"labels.csv": table(MANY)}))
    labels = load(tmp_path / "prepared").split("train").labels
    assert (labels.dtype, labels.shape[1]) == (np.uint8, 2)
