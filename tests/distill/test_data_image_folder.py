"""Image folders from outside: good layouts are read, everything else is named and leaves nothing."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.distill.corpus import CORPUS, MARKER, files
from worker.distill.data import _container, prepare
from worker.distill.data._images import BrokenImage, decode, read_header
from worker.distill.data.prepared import load
from worker.distill.events import Progress
from worker.distill.spec import PrepareSpec, SpecError

FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers" / "flowers-128.zip"


def png(colour=(200, 10, 10), size=(12, 10), mode="RGB", **save) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG", **save)
    return buffer.getvalue()


def tree(*folders, number=4):
    """{name: image} with `number` different images in each folder."""
    return {f"{f}/{i}.png": png((20 * k, 10 * i, 7)) for k, f in enumerate(folders) for i in range(number)}


SPLIT = ("train/cat", "train/dog", "val/cat", "val/dog")


def zipped(path, entries, **attributes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes.get("mode", 0o644) << 16
            archive.writestr(info, content)
    return path


def tarred(path, entries, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in entries.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def unpacked(path, entries):
    for name, content in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def run(tmp_path, source, report=lambda event: None, **options):
    spec = PrepareSpec(
        kind="image_folder",
        source=str(source),
        output=str(tmp_path / "prepared"),
        options={"image_size": 8} | options,
    )
    return prepare(spec, report)


def refused(tmp_path, source, match):
    with pytest.raises(SpecError, match=match) as caught:
        run(tmp_path, source)
    assert not (tmp_path / "prepared").exists()
    assert not list(tmp_path.glob(".prepared*"))
    return caught.value


# ---- layouts


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (SPLIT, {"train": 8, "val": 8, "test": 0}),
        (("train/cat", "train/dog", "valid/cat", "valid/dog"), {"train": 8, "val": 8, "test": 0}),
        ((*SPLIT, "test/cat", "test/dog"), {"train": 8, "val": 8, "test": 8}),
        (
            ("Training/cat", "Training/dog", "validation/cat", "validation/dog"),
            {"train": 8, "val": 8, "test": 0},
        ),
        (("train/cat", "train/dog", "test/cat", "test/dog"), {"train": 6, "val": 2, "test": 8}),
        (("cat", "dog"), {"train": 6, "val": 2, "test": 0}),
        (("pets/cat", "pets/dog"), {"train": 6, "val": 2, "test": 0}),
        (tuple(f"pets/{f}" for f in SPLIT), {"train": 8, "val": 8, "test": 0}),
    ],
)
def test_layouts(tmp_path, folders, sizes):
    result = run(tmp_path, zipped(tmp_path / "a.zip", tree(*folders)))
    assert result["sizes"] == sizes
    assert result["classes"] == ["cat", "dog"]


def test_a_class_may_be_called_valid(tmp_path):
    result = run(tmp_path, zipped(tmp_path / "a.zip", tree("valid", "invalid")))
    assert result["classes"] == ["invalid", "valid"]


def test_zip_tar_and_folder_give_the_same_dataset(tmp_path):
    entries = tree(*SPLIT)
    sources = [
        zipped(tmp_path / "a.zip", entries),
        tarred(tmp_path / "a.tar", entries, "w"),
        tarred(tmp_path / "a.tgz", entries),
        tarred(tmp_path / "a.txz", {f"./{name}": data for name, data in entries.items()}, "w:xz"),
        unpacked(tmp_path / "folder", entries),
    ]
    assert len({run(tmp_path, source)["fingerprint"] for source in sources}) == 1


def test_pixels_and_labels_arrive_together(tmp_path):
    run(tmp_path, zipped(tmp_path / "a.zip", tree(*SPLIT)))
    train = load(tmp_path / "prepared").split("train")
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert train.images[:, 0, 4, 4].tolist() == [0] * 4 + [20] * 4
    assert train.images[:, 1, 4, 4].tolist() == [0, 10, 20, 30] * 2


def test_grey_images_stay_grey_unless_one_has_colour(tmp_path):
    grey = {f"{c}/{i}.png": png(50 * i, mode="L") for c in ("cat", "dog") for i in range(4)}
    assert run(tmp_path, zipped(tmp_path / "g.zip", grey))["channels"] == 1
    mixed = zipped(tmp_path / "m.zip", grey | {"cat/9.png": png()})
    assert run(tmp_path, mixed)["channels"] == 3
    assert run(tmp_path, mixed, colour="grey")["channels"] == 1


def test_progress_is_of_images_done(tmp_path):
    events = []
    run(tmp_path, zipped(tmp_path / "a.zip", tree(*SPLIT)), events.append)
    assert [(e.step, e.total_steps) for e in events if isinstance(e, Progress)] == [(16, 16), (16, 16)]


@pytest.mark.skipif(not FLOWERS.exists(), reason=f"the flowers are not here: {FLOWERS}")
def test_real_photographs(tmp_path):
    result = run(tmp_path, FLOWERS, image_size=32)
    assert result["sizes"] == {"train": 1200, "val": 300, "test": 0}
    assert result["classes"] == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    assert result["skipped"] == []


# ---- what is wrong is named


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({}, "it is empty"),
        ({"notes.txt": b"hello"}, "no image"),
        ({"1.png": png(), "2.png": png()}, "no class folders"),
        (tree("train/cat", "val/cat"), r"only one class \(cat\)"),
        (tree("val/cat", "val/dog"), "no train folder"),
        (tree(*SPLIT) | {"train/bird/": b""}, "no images: bird"),
        (tree(*SPLIT, "val/bird"), "val has classes that train has not: bird"),
        (tree(*SPLIT, "train/bird"), "val has no images of the classes bird"),
        (tree(*SPLIT, "valid/cat", "valid/dog"), "same split: train, val, valid"),
        (tree("cat") | {"dog/1.png": b"broken"}, "no readable images: dog"),
        (dict.fromkeys(tree("cat", "dog"), b"broken"), "no image can be read; dog/3.png"),
        (tree("cat", "x" * 101), "longer than 100"),
    ],
)
def test_wrong_content_is_named(tmp_path, entries, problem):
    refused(tmp_path, zipped(tmp_path / "a.zip", entries), problem)


def test_broken_images_are_left_out_and_listed(tmp_path):
    broken = {
        "cat/bad.png": b"broken",
        "dog/cut.png": png()[:-30],
        "dog/readme.md": b"hi",
        "cat/.DS_Store": b"",
    }
    result = run(tmp_path, zipped(tmp_path / "a.zip", tree("cat", "dog") | broken))
    assert [s["name"] for s in result["skipped"]] == ["dog/readme.md", "cat/bad.png", "dog/cut.png"]
    assert any("3 files left out" in w for w in result["warnings"])
    assert sum(result["sizes"].values()) == 8


def test_leaks_conflicts_and_uneven_classes_are_warned_of(tmp_path):
    entries = (
        tree("train/cat", number=25) | tree("train/dog", number=1) | tree("val/cat", "val/dog", number=1)
    )
    warnings = " ".join(run(tmp_path, zipped(tmp_path / "a.zip", entries))["warnings"])
    assert "in another split" in warnings
    assert "under two different classes" in warnings
    assert "25 images of cat in train, 1 of dog" in warnings


def test_names_with_control_characters_are_shown_escaped(tmp_path):
    entries = tree("cat", "dog") | {"cat/a\x1b[31m\n.png": b"broken"}
    result = run(tmp_path, zipped(tmp_path / "a.zip", entries))
    assert result["skipped"][0]["name"] == "cat/a\\x1b[31m\\n.png"


# ---- hostile archives


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../cat/evil.png", "leads out"),
        ("cat/../../evil.png", "leads out"),
        ("/tmp/kdweb-pwned-marker", "absolute"),
        ("cat\\evil.png", "backslashes"),
        ("C:/evil.png", "absolute"),
        ("/".join("abcdefghi") + "/x.png", "8 folders deep"),
        ("cat/inner.zip", "archive inside the archive"),
        ("cat/./0.png", "there twice"),
    ],
)
def test_hostile_names_are_refused(tmp_path, name, problem):
    refused(tmp_path, zipped(tmp_path / "a.zip", tree("cat", "dog") | {name: png()}), problem)
    refused(tmp_path, tarred(tmp_path / "a.tgz", tree("cat", "dog") | {name: png()}), problem)


@pytest.mark.parametrize("mode", [0o120777, 0o020644, 0o010644, 0o104755])
def test_links_devices_and_setuid_files_in_a_zip_are_refused(tmp_path, mode):
    refused(tmp_path, zipped(tmp_path / "a.zip", tree("cat", "dog"), mode=mode), "link or a device|setuid")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    link = tarfile.TarInfo("cat/link.png")
    link.type, link.linkname = kind, "/etc/passwd"
    refused(tmp_path, tarred(tmp_path / "a.tgz", tree("cat", "dog") | {"link": link}), "link or a device")


def test_a_negative_size_in_a_tar_does_not_loop(tmp_path):
    path = tarred(tmp_path / "a.tar", tree("cat", "dog"), "w")
    data = bytearray(path.read_bytes())
    data[124:136] = b"\xff" * 11 + b"\x00"  # the size, base 256: minus 256
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    refused(tmp_path, path, "negative size|damaged")


def test_a_size_that_lies_is_noticed_while_unpacking(tmp_path):
    path = zipped(tmp_path / "a.zip", tree("cat", "dog") | {"cat/z.png": b"\0" * 500_000})
    data = path.read_bytes()
    lie = data.replace(struct.pack("<I", 500_000), struct.pack("<I", 100))
    assert lie != data
    path.write_bytes(lie)
    refused(tmp_path, path, "damaged inside|does not unpack")


def test_entries_that_share_bytes_are_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {f"cat/{i}.png": png() for i in range(3)} | tree("dog"))
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # the second's offset = the first's
    path.write_bytes(data)
    refused(tmp_path, path, "overlaps another entry")


def test_too_many_entries_are_refused_by_count(tmp_path, monkeypatch):
    for path in (
        zipped(tmp_path / "a.zip", tree("cat", "dog")),
        tarred(tmp_path / "a.tgz", tree("cat", "dog")),
    ):
        for module in ("_container", "_zip", "_tar"):
            monkeypatch.setattr(f"worker.distill.data.{module}.MAX_ENTRIES", 5)
        refused(tmp_path, path, "5 entries|allowed are 5")


def test_a_bomb_in_a_packed_tar_stops_early(tmp_path):
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(b"\0" * (50 << 20)))
    refused(tmp_path, path, "unpacks to more than")


def test_what_is_packed_twice_is_refused(tmp_path):
    path = tarred(tmp_path / "a.tgz", tree("cat", "dog"))
    path.write_bytes(gzip.compress(path.read_bytes()))
    refused(tmp_path, path, "packed twice")


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_cut_off_archives_are_named(tmp_path, keep):
    for path in (zipped(tmp_path / "a.zip", tree(*SPLIT)), tarred(tmp_path / "a.tgz", tree(*SPLIT))):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        refused(tmp_path, path, "cut off")


def test_links_in_a_server_folder_are_not_followed(tmp_path):
    folder = unpacked(tmp_path / "folder", tree("cat", "dog"))
    (folder / "cat" / "secret.png").symlink_to("/etc/passwd")
    (folder / "bird").symlink_to(folder / "cat")
    result = run(tmp_path, folder)
    assert result["classes"] == ["cat", "dog"]
    assert any("2 links" in w for w in result["warnings"])


@pytest.mark.parametrize(("path", "verdict"), files("archive/"))
def test_the_corpus_of_archives(tmp_path, path, verdict):
    if verdict == "reject":
        error = refused(tmp_path, path, "source = ")
        assert error.field == "source"
        assert "\n" not in str(error)
    else:
        result = run(tmp_path, path)
        json.dumps(result).encode()
        assert result["warnings"] or verdict != "accept-with-warning"
        written = {p.suffix for p in (tmp_path / "prepared").rglob("*") if p.is_file()}
        assert written == {".json", ".npy", ".png"}
    assert not MARKER.exists()


def test_names_that_are_not_utf8_are_warned_of(tmp_path):
    path = CORPUS / "archive" / "37-latin1-names.zip"
    if not path.exists():
        pytest.skip("the corpus is not here")
    assert "not marked as UTF-8" in run(tmp_path, path)["warnings"][0]


# ---- hostile images


@pytest.mark.parametrize(("path", "verdict"), files("image/"))
def test_the_corpus_of_images(path, verdict):
    data = path.read_bytes()
    if verdict == "reject":
        with pytest.raises(BrokenImage):
            decode(data, size=16, channels=3, resize="crop")
    else:
        read_header(data)
        assert decode(data, size=16, channels=3, resize="crop").shape == (3, 16, 16)


def test_an_image_bomb_refuses_the_archive(tmp_path):
    bomb = png(0, size=(8000, 7000), mode="1")
    refused(tmp_path, zipped(tmp_path / "a.zip", tree("cat", "dog") | {"cat/b.png": bomb}), "8,000 × 7,000")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_colour_mode_becomes_grey_or_rgb(mode, channels):
    source = Image.new("L", (20, 10), 255)
    data = io.BytesIO()
    (Image.fromarray(np.full((10, 20), 65535, np.uint16)) if mode == "I;16" else source.convert(mode)).save(
        data, "PNG"
    )
    for resize in ("crop", "pad", "stretch"):
        pixels = decode(data.getvalue(), size=8, channels=channels, resize=resize)
        assert pixels.shape == (channels, 8, 8)
        assert pixels.dtype == np.uint8
        assert (pixels[:, 3:5] == 255).all()


def test_sixteen_bits_lose_their_lower_half_and_are_not_clipped():
    data = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(data, "PNG")
    assert (decode(data.getvalue(), size=8, channels=1, resize="stretch") == 128).all()


def test_transparency_lies_over_white():
    data = png((255, 0, 0, 0), mode="RGBA")
    assert (decode(data, size=8, channels=3, resize="crop") == 255).all()


ROTATED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


@pytest.mark.parametrize(("exif", "dark"), [(ROTATED, (15, 15)), (b"Exif\0\0junk", (0, 0)), (b"", (0, 0))])
def test_exif_rotation_is_applied_and_broken_exif_ignored(exif, dark):
    picture = Image.new("RGB", (16, 16), "white")
    picture.paste("black", (0, 0, 16, 8))  # the upper half; turned clockwise the right one
    data = io.BytesIO()
    picture.save(data, "JPEG", exif=exif, quality=95)
    pixels = decode(data.getvalue(), size=16, channels=1, resize="crop")[0]
    assert pixels[dark] < 40
    assert pixels[15, 0] > 200


def test_only_the_first_frame_of_an_animation_is_used():
    data = io.BytesIO()
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 255)]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data.getvalue(), size=8, channels=1, resize="crop") == 0).all()


def test_limits_are_far_from_real_datasets():
    assert _container.MAX_ENTRIES >= 100_000
    assert _container.MAX_ENTRY_BYTES >= 32 << 20
