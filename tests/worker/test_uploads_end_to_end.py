"""What a person brings, from the first request to the page that answers: real broker, worker and engine."""

from __future__ import annotations

import html
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from PIL import Image

from experiments import queue
from experiments.models import Dataset, Teacher, Upload
from experiments.models.catalogue import Readiness
from tests.distill.corpus import MARKER, files
from tests.experiments.make import a_dataset, a_project
from tests.experiments.people import browser
from worker.distill import models

from .conftest import Site

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def root(site: Site) -> Client:
    a_project()
    return browser(User.objects.create_superuser("uploader"))


@pytest.fixture(scope="module")
def digits(site: Site) -> Dataset:
    dataset = a_dataset("digits to upload for", status=Readiness.PREPARING, classes=[], channels=None)
    queue.send_dataset(dataset)
    site.wait_for(lambda: Dataset.objects.exclude(status=Readiness.PREPARING).filter(pk=dataset.pk).exists())
    return Dataset.objects.get(pk=dataset.pk)


@pytest.fixture
def bring(site: Site, root: Client) -> Callable[..., Upload]:
    """Announce, send in two pieces, wait for the worker; the file that came in is gone in any case."""

    def brought(purpose: str, filename: str, content: bytes, **form: Any) -> Upload:
        wish = {"filename": filename, "size": str(len(content))} | form
        answer = root.post(reverse("upload_start", args=[purpose]), wish)
        assert answer.status_code == 201, answer.content
        url = answer.json()["url"]
        half = len(content) // 2
        for offset, piece in ((0, content[:half]), (half, content[half:])):
            if piece:
                sent = root.put(f"{url}piece?offset={offset}", piece, content_type="application/octet-stream")
                assert sent.json()["received"] == offset + len(piece)
        mine = Upload.objects.filter(pk=answer.json()["id"])
        site.wait_for(lambda: mine.exclude(status=Upload.Status.CHECKING).exists())
        upload = mine.get()
        site.wait_for(lambda: not upload.path.exists(), seconds=10)
        return upload

    return brought


def page(client: Client, upload: Upload) -> str:
    return client.get(reverse("upload_status", args=[upload.pk])).content.decode()


def weights(architecture: str = "resnet8") -> dict[str, torch.Tensor]:
    return models.build(architecture, num_classes=10, in_channels=1, image_size=8).state_dict()


def asked(name: str, dataset: Dataset, architecture: str = "resnet8") -> dict[str, Any]:
    return {"name": name, "architecture": architecture, "dataset": dataset.pk}


def left_nothing(site: Site, name: str) -> bool:
    """No row of that name, and no file half made."""
    halves = [*(site.home / "teachers").glob("upload-*"), *(site.home / "datasets").glob("upload-*")]
    rows = Teacher.objects.filter(name=name).exists() or Dataset.objects.filter(name=name).exists()
    return not rows and not halves


# --- Checkpoints ------------------------------------------------------------------------------------------
def test_a_good_checkpoint_becomes_a_measured_teacher(
    root: Client, digits: Dataset, bring: Callable[..., Upload]
) -> None:
    state = {f"module.{name}": tensor for name, tensor in weights().items()}
    upload = bring("teacher", "best.safetensors", safetensors.torch.save(state), **asked("brought", digits))
    assert (upload.status, upload.error) == ("done", "")
    teacher = Teacher.objects.get(name="brought")
    assert teacher.metrics["parameters"] == sum(t.numel() for n, t in weights().items() if trained(n))
    assert 0 <= teacher.metrics["top1"] <= 1
    assert len(teacher.metrics["per_class"]) == 10
    polled = root.get(reverse("upload_status", args=[upload.pk]), headers={"HX-Request": "true"})
    assert polled["HX-Redirect"] == reverse("teacher_detail", args=[teacher.pk])
    shown = root.get(polled["HX-Redirect"]).content.decode()
    for words in ("Uploaded", "best.safetensors", "module.", f"{100 * teacher.metrics['top1']:.2f}"):
        assert words in shown, words
    download = root.get(reverse("teacher_weights", args=[teacher.pk])).getvalue()
    assert set(safetensors.torch.load(download)) == set(weights())


def trained(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_a_checkpoint_of_another_architecture_is_refused_with_the_first_differences(
    site: Site, root: Client, digits: Dataset, bring: Callable[..., Upload]
) -> None:
    content = safetensors.torch.save(weights("resnet8x4"))
    upload = bring("teacher", "wide.safetensors", content, **asked("misfit", digits))
    assert upload.status == "refused"
    assert "conv1.weight is 32×1×3×3 instead of 16×1×3×3" in upload.error
    assert "Choose the architecture" in upload.error
    assert len(re.findall(" instead of ", upload.error)) <= 10
    assert html.escape(upload.error) in page(root, upload)
    assert left_nothing(site, "misfit")


@pytest.mark.parametrize(
    ("filename", "content", "words"),
    [
        ("notes.pt", pickle.dumps({"accuracy": 0.9}), "torch.save did not write"),
        ("<b>list</b>.pt", pickle.dumps([1, 2, 3]), "list"),
    ],
)
def test_what_is_no_state_dict_is_refused_in_words(
    site: Site,
    root: Client,
    digits: Dataset,
    bring: Callable[..., Upload],
    filename: str,
    content: bytes,
    words: str,
) -> None:
    upload = bring("teacher", filename, content, **asked("nothing", digits))
    assert upload.status == "refused"
    assert words in upload.error
    assert "Traceback" not in upload.error
    shown = page(root, upload)
    assert html.escape(upload.error) in shown
    assert "<b>list" not in shown
    assert left_nothing(site, "nothing")


HOSTILE = ("ckpt/evil/33-renamed.safetensors", "ckpt/dos/02")  # all of them: tests/distill


@pytest.mark.parametrize(("path", "verdict"), files(*HOSTILE))
def test_hostile_checkpoints_of_the_corpus_end_as_a_sentence(
    site: Site, digits: Dataset, bring: Callable[..., Upload], path: Path, verdict: str
) -> None:
    MARKER.unlink(missing_ok=True)
    upload = bring("teacher", path.name, path.read_bytes(), **asked("hostile", digits))
    assert (upload.status, verdict) == ("refused", "reject")
    assert path.name in upload.error
    assert not MARKER.exists()
    assert left_nothing(site, "hostile")


# --- Archives ---------------------------------------------------------------------------------------------
def png(shade: int) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 255 - shade, 128)).save(target, "PNG")
    return target.getvalue()


def archive(**classes: list[bytes]) -> bytes:
    """A folder for each class. An empty list leaves the folder alone in the archive."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for label, pictures in classes.items():
            file.writestr(f"{label}/", b"")
            for n, picture in enumerate(pictures):
                file.writestr(f"{label}/{n}.png", picture)
    return target.getvalue()


def pictures(first: int, n: int = 10) -> list[bytes]:
    return [png(first + i) for i in range(n)]


FOLDER = {"kind": "image_folder", "option-image_size": "16", "option-validation_share": "0.2"}


def test_an_archive_with_one_broken_picture_becomes_a_dataset_that_names_it(
    root: Client, bring: Callable[..., Upload]
) -> None:
    content = archive(cat=[*pictures(0), b"\x89PNG broken"], dog=pictures(100))
    upload = bring("dataset", "pets.zip", content, name="brought pets", **FOLDER)
    assert (upload.status, upload.error) == ("done", "")
    dataset = Dataset.objects.get(name="brought pets")
    assert dataset.classes == ["cat", "dog"]
    shown = root.get(reverse("dataset_detail", args=[dataset.pk])).content.decode()
    assert "cat/10.png" in shown
    sample = root.get(reverse("dataset_sample", args=[dataset.pk, 1, 0]))
    assert Image.open(io.BytesIO(sample.getvalue())).format == "PNG"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive(), "empty"),
        (archive(cat=pictures(0), dog=[]), "dog"),
        (
            archive(cat=[b"no picture"] * 3, dog=[b"nor this"] * 3),
            "bad.zip': no image can be read; dog/2.png",
        ),
        (archive(cat=pictures(0)), "at least 2"),
    ],
    ids=["no entries", "a class without pictures", "broken pictures only", "one class"],
)
def test_an_archive_that_makes_no_dataset_is_refused_in_words(
    site: Site, root: Client, bring: Callable[..., Upload], content: bytes, words: str
) -> None:
    upload = bring("dataset", "bad.zip", content, name="bad", **FOLDER)
    assert upload.status == "refused", upload.dataset
    assert words in upload.error
    assert "Traceback" not in upload.error
    assert html.escape(upload.error) in page(root, upload)
    assert left_nothing(site, "bad")


@pytest.mark.parametrize(("path", "verdict"), files("archive/11", "archive/67", "archive/32"))
def test_archives_of_the_corpus_end_as_the_corpus_says(
    site: Site, root: Client, bring: Callable[..., Upload], path: Path, verdict: str
) -> None:
    upload = bring("dataset", path.name, path.read_bytes(), name=path.stem, **FOLDER)
    if verdict == "reject":
        assert upload.status == "refused"
        assert path.name in upload.error
        assert str(upload.pk) not in upload.error
        assert left_nothing(site, path.stem)
    else:  # class names with HTML
        assert (upload.status, upload.error) == ("done", "")
        shown = root.get(reverse("dataset_detail", args=[upload.dataset_id])).content.decode()
        for name in upload.dataset.classes:
            assert html.escape(name) in shown
            assert name == html.escape(name) or name not in shown
