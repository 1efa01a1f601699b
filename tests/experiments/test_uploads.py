"""Files on their way in: announced, sent in pieces, continued, given up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from experiments import files
from experiments.models import DatasetKind, Role, Upload
from experiments.views import uploads
from worker.distill.data import image_folder

from .make import a_dataset, a_project, an_architecture
from .people import a_user, an_admin, browser

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def data_folder(settings: Any, tmp_path: Path) -> Path:
    settings.KDWEB_DATA = tmp_path
    return tmp_path


@pytest.fixture(autouse=True)
def kind() -> DatasetKind:
    return DatasetKind.objects.create(
        key="image_folder",
        title="Image folder",
        source="upload",
        schema=image_folder.Options.model_json_schema(),
    )


@pytest.fixture
def client() -> Client:
    return browser(a_user())


def announce(client: Client, purpose: str = "dataset", **values: Any) -> Any:
    wish = {
        "kind": "image_folder",
        "name": "pets",
        "option-image_size": "32",
        "filename": "pets.zip",
        "size": "10",
    }
    return client.post(reverse("upload_start", args=[purpose]), wish | values)


def put(client: Client, upload: Upload, offset: int | str, body: bytes) -> Any:
    url = reverse("upload_piece", args=[upload.pk]) + f"?offset={offset}"
    return client.put(url, body, content_type="application/octet-stream")


def an_upload(client: Client, **values: Any) -> Upload:
    return Upload.objects.get(pk=announce(client, **values).json()["id"])


def test_an_announced_upload_remembers_its_form_and_says_where_the_bytes_go(client: Client) -> None:
    answer = announce(client)
    assert answer.status_code == 201
    upload = Upload.objects.get()
    assert answer.json() == {
        "id": str(upload.pk),
        "url": reverse("upload_status", args=[upload.pk]),
        "piece": uploads.PIECE,
        "received": 0,
    }
    assert upload.request["name"] == "pets"
    assert upload.request["options"]["image_size"] == 32
    assert upload.request["options"]["resize"] == "crop"
    assert (upload.owner.username, upload.size, upload.status) == ("ann", 10, "receiving")


def test_pieces_arrive_one_after_the_other_and_the_last_asks_a_worker(
    client: Client, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    upload = an_upload(client)
    assert put(client, upload, 0, b"01234").json() == {"received": 5, "status": "receiving"}
    assert sent == []
    wrong = put(client, upload, 0, b"again")
    assert (wrong.status_code, wrong.json()["received"]) == (409, 5)
    ahead = put(client, upload, 8, b"89")
    assert (ahead.status_code, ahead.json()["received"]) == (409, 5)
    with django_capture_on_commit_callbacks(execute=True):
        last = put(client, upload, 5, b"56789")
    assert last.json() == {"received": 10, "status": "checking"}
    assert sent == [("worker.tasks.check_upload", [str(upload.pk)])]
    assert upload.path.read_bytes() == b"0123456789"
    assert upload.path.stat().st_mode & 0o777 == 0o600
    assert put(client, upload, 10, b"more").status_code == 409


@pytest.mark.parametrize("offset", ["", "x", "-1", "0.0", "9" * 5000])
def test_an_offset_that_is_none_is_answered_with_the_right_one(client: Client, offset: str) -> None:
    answer = put(client, an_upload(client), offset, b"01234")
    assert (answer.status_code, answer.json()["received"]) == (409, 0)


def test_more_than_was_announced_is_refused_and_nothing_of_it_counts(client: Client) -> None:
    upload = an_upload(client)
    put(client, upload, 0, b"0123")
    answer = put(client, upload, 4, b"45678901234")
    assert answer.status_code == 413
    assert "at most 8,388,608 bytes" in answer.json()["error"]
    assert "announced size of 10" in answer.json()["error"]
    assert put(client, upload, 4, b"456789").json() == {"received": 10, "status": "checking"}
    assert upload.path.read_bytes() == b"0123456789"


def test_a_piece_longer_than_a_piece_may_be_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PIECE", 4)
    upload = an_upload(client)
    assert put(client, upload, 0, b"01234").status_code == 413
    upload.refresh_from_db()
    assert upload.received == 0


def test_a_full_disk_is_said_in_words_and_nothing_counts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bool:
        raise OSError(28, "No space left on device")

    upload = an_upload(client)
    monkeypatch.setattr(uploads, "write_piece", full)
    answer = put(client, upload, 0, b"01234")
    assert (answer.status_code, answer.json()) == (
        507,
        {"error": "The server cannot store it: No space left on device."},
    )
    upload.refresh_from_db()
    assert upload.received == 0


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"filename": ""}, "file", "Choose a file: one folder a class, as .zip"),
        ({"filename": "pets.rar"}, "file", "“pets.rar” has another ending than expected. Send one folder"),
        ({"size": "0"}, "file", "“pets.zip” is empty. Choose another file."),
        ({"size": "-5"}, "file", "“pets.zip” is empty"),
        ({"size": "²"}, "file", "“pets.zip” is empty"),
        ({"size": "9" * 18}, "file", "An administrator sets KDWEB_UPLOAD_LIMIT."),
        ({"filename": "a\0.zip"}, "file", "Choose a file"),
        ({"name": ""}, "name", "This field is required."),
        ({"name": "Digits"}, "name", "“Digits” is taken in this project. Choose another name."),
        ({"option-image_size": "9999"}, "option-image_size", "Use 512 or less."),
        ({"option-resize": "melt"}, "option-resize", "melt is not one of the available choices"),
    ],
)
def test_what_is_wrong_is_said_by_field_before_a_byte_is_sent(
    client: Client, values: dict[str, str], field: str, words: str
) -> None:
    a_dataset("digits")
    answer = announce(client, **values)
    assert answer.status_code == 422
    assert words in " ".join(answer.json()["errors"][field])
    assert not Upload.objects.exists()


def test_a_file_that_does_not_fit_the_disk_is_refused_before_it_is_sent(
    client: Client, settings: Any
) -> None:
    settings.KDWEB_UPLOAD_LIMIT = 10**18
    words = announce(client, size=str(10**17)).json()["errors"]["file"][0]
    assert "“pets.zip” has 100,000,000,000,000,000 bytes; the server's disk has" in words


def test_a_checkpoint_is_for_admins_and_for_a_ready_dataset_of_the_project() -> None:
    an_architecture("resnet8")
    ready = a_dataset("digits")
    wish = {"name": "big", "architecture": "resnet8", "filename": "w.safetensors"}
    keeper, root = browser(a_user("kay", Role.MAINTAINER)), browser(an_admin())
    assert announce(keeper, "teacher", dataset=ready.pk, **wish).status_code == 403
    upload = an_upload(root, purpose="teacher", dataset=ready.pk, **wish)
    assert upload.request == {
        "name": "big",
        "description": "",
        "architecture": "resnet8",
        "dataset": ready.pk,
    }
    half = a_dataset("half", status="preparing")
    answer = announce(root, "teacher", dataset=half.pk, **wish)
    assert "dataset" in answer.json()["errors"]
    assert "architecture" in announce(root, "teacher", **wish | {"architecture": "no"}).json()["errors"]


def test_only_the_person_who_began_an_upload_continues_it(client: Client) -> None:
    upload = an_upload(client)
    colleague = browser(a_user("bob", Role.MAINTAINER))
    stranger = browser(a_user("sam", Role.MAINTAINER, a_project("Other")))
    for other, status in ((colleague, 403), (stranger, 404), (Client(), 302)):
        assert put(other, upload, 0, b"01234").status_code == status
        assert other.post(reverse("upload_cancel", args=[upload.pk])).status_code == status
    assert colleague.get(reverse("upload_status", args=[upload.pk])).status_code == 200
    assert stranger.get(reverse("upload_status", args=[upload.pk])).status_code == 404
    assert not upload.path.exists()


def test_a_person_who_left_the_project_cannot_go_on(client: Client) -> None:
    upload = an_upload(client)
    upload.project.memberships.all().delete()
    assert put(client, upload, 0, b"01234").status_code == 404


def test_viewers_announce_nothing_and_unknown_purposes_are_not_there(client: Client) -> None:
    assert announce(browser(a_user("vic", Role.VIEWER))).status_code == 403
    assert announce(client, "weapon").status_code == 404
    assert announce(client, kind="digits").status_code == 404


def test_a_piece_needs_the_csrf_token() -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(a_user())
    upload = Upload.objects.create(
        project=a_project(), owner=a_user(), purpose="dataset", filename="a.zip", size=5
    )
    assert put(strict, upload, 0, b"01234").status_code == 403


def test_giving_up_removes_the_bytes(client: Client, django_capture_on_commit_callbacks: Any) -> None:
    upload = an_upload(client)
    put(client, upload, 0, b"01234")
    assert upload.path.exists()
    with django_capture_on_commit_callbacks(execute=True):
        answer = client.post(reverse("upload_cancel", args=[upload.pk]))
    assert answer.json() == {"cancelled": True}
    assert not upload.path.exists()
    assert not Upload.objects.exists()
    assert put(client, upload, 5, b"56789").status_code == 404


def test_what_a_worker_has_already_is_not_given_up(client: Client) -> None:
    upload = an_upload(client)
    put(client, upload, 0, b"0123456789")
    assert client.post(reverse("upload_cancel", args=[upload.pk])).json() == {"cancelled": False}
    assert upload.path.read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("receiving", "have arrived"),
        ("checking", "Reading pictures"),
        ("refused", "&lt;b&gt;class&lt;/b&gt; has no images"),
        ("done", "Open the dataset"),
    ],
)
def test_the_state_is_a_page_a_fragment_and_json(client: Client, status: str, words: str) -> None:
    upload = an_upload(client, filename="<b>pets.zip")
    done = {"dataset": a_dataset()} if status == "done" else {}
    error = "<b>class</b> has no images"
    Upload.objects.update(status=status, phase="Reading pictures", error=error, **done)
    url = reverse("upload_status", args=[upload.pk])
    page = client.get(url).content.decode()
    assert words in page
    assert "&lt;b&gt;pets" in page
    assert "<b>" not in page
    assert client.get(url, headers={"Accept": "application/json"}).json()["status"] == status
    polled = client.get(url, headers={"HX-Request": "true"})
    assert (b"hx-trigger" in polled.content) == (status == "checking")
    if done:
        assert polled["HX-Redirect"] == reverse("dataset_detail", args=[a_dataset().pk])
    else:
        assert words in polled.content.decode()
        assert b"<html" not in polled.content


def test_lists_show_what_is_on_its_way_but_not_for_ever(client: Client) -> None:
    upload = an_upload(client)
    assert b"pets.zip" in client.get(reverse("dataset_list")).content
    assert b"pets.zip" not in client.get(reverse("teacher_list")).content
    Upload.objects.update(status="refused", created=upload.created - files.ABANDONED * 2)
    assert b"pets.zip" not in client.get(reverse("dataset_list")).content


def test_uploads_that_nobody_continued_for_a_day_are_swept(
    client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    old, active, fresh = (an_upload(client, name=name) for name in ("old", "active", "fresh"))
    for upload in (old, active):
        put(client, upload, 0, b"01234")
        Upload.objects.filter(pk=upload.pk).update(created=upload.created - files.ABANDONED * 2)
    yesterday = (old.created - files.ABANDONED * 2).timestamp()
    os.utime(old.path, (yesterday, yesterday))
    with django_capture_on_commit_callbacks(execute=True):
        files.sweep_uploads()
    assert set(Upload.objects.all()) == {active, fresh}
    assert not old.path.exists()
    assert active.path.exists()
