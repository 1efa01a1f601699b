"""The pages of datasets: what they show, who may do what, and what they refuse in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from experiments.models import Dataset, DatasetKind, Role
from worker.distill.data import image_folder

from .make import a_dataset, a_project, a_run, a_teacher
from .people import a_user, browser, queries

pytestmark = pytest.mark.django_db
INFO: dict[str, Any] = {
    "sizes": {"train": 3, "val": 1, "test": 0},
    "mean": [0.5],
    "std": [0.25],
    "class_counts": {"train": [2, 1], "val": [1, 0]},
    "augmentation": ["random mirroring left to right"],
    "samples": {"<b>cat</b>": ["samples/0-0.png"], "dog": ["../../secret.png"]},
    "skipped": [{"name": "<i>bad</i>.jpg", "reason": "is truncated"}],
    "warnings": ["1 image stands in train and val."],
}


@pytest.fixture
def client() -> Client:
    return browser(a_user())


@pytest.fixture
def folder_kind() -> DatasetKind:
    return DatasetKind.objects.create(
        key="image_folder",
        title=image_folder.TITLE,
        source=image_folder.SOURCE,
        schema=image_folder.Options.model_json_schema(),
    )


@pytest.fixture
def bundled() -> DatasetKind:
    return DatasetKind.objects.create(key="digits", title="Digits (8 × 8)", source="bundled")


def a_full_dataset(**values: Any) -> Dataset:
    return a_dataset("<script>alert(1)</script>", classes=["<b>cat</b>", "dog"], info=INFO, **values)


def test_the_list_says_what_to_do_when_there_is_none_and_shows_names_escaped(client: Client) -> None:
    assert b"No dataset yet" in client.get(reverse("dataset_list")).content
    a_full_dataset()
    page = client.get(reverse("dataset_list")).content
    assert b"&lt;script&gt;alert(1)" in page
    assert b"<script>alert" not in page


def test_the_list_costs_the_same_queries_for_one_and_for_twenty(client: Client) -> None:
    a_run(dataset=a_full_dataset())
    one = queries(client, reverse("dataset_list"))
    for n in range(20):
        a_teacher(f"t{n}", dataset=a_dataset(f"d{n}"))
    assert queries(client, reverse("dataset_list")) == one


def test_the_page_shows_balance_samples_warnings_and_what_was_left_out(client: Client) -> None:
    DatasetKind.objects.create(
        key="image_folder", title="Image folder", schema={"properties": {"flip": {"title": "Mirroring"}}}
    )
    dataset = a_full_dataset(kind="image_folder", options={"flip": True})
    a_teacher("expert", dataset=dataset, metrics={"top1": 0.9341})
    a_run(dataset=dataset, name="first run")
    page = client.get(reverse("dataset_detail", args=[dataset.pk])).content.decode()
    for shown in (
        "&lt;b&gt;cat",
        "random mirroring",
        "stands in train and val",
        "Is truncated",
        "93.41",
        "first run",
        "<dt>Mirroring</dt><dd>yes</dd>",
    ):
        assert shown in page, shown
    assert reverse("dataset_sample", args=[dataset.pk, 0, 0]) in page
    assert "<i>bad" not in page
    assert "<b>cat" not in page


def test_the_page_says_that_an_image_has_several_labels(client: Client) -> None:
    many = a_dataset("cells", classes=["cat", "dog"], info=INFO | {"task": "multi-label"})
    page = client.get(reverse("dataset_detail", args=[many.pk])).content.decode()
    assert "an image has several or none" in page


def test_the_page_of_a_bare_dataset_works_too(client: Client) -> None:
    assert client.get(reverse("dataset_detail", args=[a_dataset(classes=[]).pk])).status_code == 200


def test_while_it_is_prepared_only_the_body_is_fetched_again_and_it_stops_when_ready(client: Client) -> None:
    dataset = a_dataset(status="preparing", phase="data: reading pictures")
    url = reverse("dataset_detail", args=[dataset.pk])
    part = client.get(url, headers={"HX-Request": "true"}).content.decode()
    assert "data: reading pictures" in part
    assert "hx-trigger" in part
    assert "<html" not in part
    Dataset.objects.update(status="ready", info=INFO, classes=["a", "b"])
    assert client.get(url, headers={"HX-Request": "true"})["HX-Refresh"] == "true"
    assert "hx-trigger" not in client.get(url).content.decode().split("<main")[1]


def test_a_sample_is_served_as_a_picture_and_only_from_the_datasets_own_list(
    client: Client, settings: Any, tmp_path: Path
) -> None:
    settings.KDWEB_DATA = tmp_path / "data"
    dataset = a_full_dataset()
    (dataset.folder / "samples").mkdir(parents=True)
    (dataset.folder / "samples/0-0.png").write_bytes(b"png")
    (tmp_path / "secret.png").write_bytes(b"secret")
    picture = client.get(reverse("dataset_sample", args=[dataset.pk, 0, 0]))
    assert (picture.getvalue(), picture["Content-Type"]) == (b"png", "image/png")
    for label, n in ((0, 1), (7, 0), (1, 0)):  # no such sample, no such class, a path that leads outside
        assert client.get(reverse("dataset_sample", args=[dataset.pk, label, n])).status_code == 404


def test_a_dataset_is_made_and_a_worker_is_asked(
    client: Client, bundled: DatasetKind, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        answer = client.post(reverse("dataset_new"), {"kind": "digits", "name": "digits"})
    dataset = Dataset.objects.get(project=a_project(), name="digits")
    assert answer["Location"] == reverse("dataset_detail", args=[dataset.pk])
    assert (dataset.status, dataset.owner.username) == ("preparing", "ann")
    assert sent == [("worker.tasks.prepare_dataset", [dataset.pk])]


def test_options_come_from_the_kinds_schema_and_refusals_name_the_bound(
    client: Client, folder_kind: DatasetKind, settings: Any, tmp_path: Path
) -> None:
    settings.KDWEB_DATASET_ROOTS = [tmp_path]
    url = reverse("dataset_new")
    assert b"Pixels a side" in client.get(url + "?kind=image_folder").content
    wish = {"kind": "image_folder", "name": "pets", "source_folder": str(tmp_path / "pets")}
    answer = client.post(url, wish | {"option-image_size": "7"})
    assert answer.status_code == 422
    assert b"Use 8 or more." in answer.content
    client.post(url, wish | {"option-image_size": "32", "option-flip": "on"})
    made = Dataset.objects.get(name="pets")
    assert made.options["image_size"] == 32
    assert made.options["resize"] == "crop"
    assert made.source_folder == str(tmp_path / "pets")


def test_a_folder_outside_the_allowed_ones_is_refused(
    client: Client, folder_kind: DatasetKind, settings: Any, tmp_path: Path
) -> None:
    settings.KDWEB_DATASET_ROOTS = [tmp_path / "allowed"]
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed/way-out").symlink_to("/etc")
    for folder in ("/etc", f"{tmp_path}/allowed/../other", f"{tmp_path}/allowed/way-out"):
        wish = {"kind": "image_folder", "name": "pets", "source_folder": folder}
        answer = client.post(reverse("dataset_new"), wish)
        assert answer.status_code == 422
        for word in (folder, str(tmp_path / "allowed"), "KDWEB_DATASET_ROOTS"):
            assert word in answer.content.decode()
    assert not Dataset.objects.exists()


def test_without_allowed_folders_none_can_be_named(client: Client, folder_kind: DatasetKind) -> None:
    wish = {"kind": "image_folder", "name": "pets", "source_folder": "/etc"}
    answer = client.post(reverse("dataset_new"), wish)
    assert answer.status_code == 422
    assert b"Choose a file: one folder a class" in answer.content


def test_a_taken_name_is_refused_whatever_its_case(client: Client, bundled: DatasetKind) -> None:
    a_dataset("Digits")
    answer = client.post(reverse("dataset_new"), {"kind": "digits", "name": "digits"})
    assert answer.status_code == 422
    assert "“digits” is taken in this project. Choose another name." in answer.content.decode()


def test_the_second_of_two_who_take_a_name_at_once_is_told_so(
    client: Client, bundled: DatasetKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_dataset("digits")
    monkeypatch.setattr(
        "experiments.forms.catalogue.DatasetForm.clean_name", lambda form: form.cleaned_data["name"]
    )
    answer = client.post(reverse("dataset_new"), {"kind": "digits", "name": "digits"})
    assert answer.status_code == 422
    assert "is taken" in answer.content.decode()


def test_a_failed_dataset_says_why_and_is_tried_again(
    client: Client, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    dataset = a_dataset(status="failed", error="source = '/x': there is no such folder.")
    page = client.get(reverse("dataset_detail", args=[dataset.pk])).content
    assert b"there is no such folder" in page
    with django_capture_on_commit_callbacks(execute=True):
        for _ in range(2):  # a double click
            client.post(reverse("dataset_retry", args=[dataset.pk]))
    dataset.refresh_from_db()
    assert (dataset.status, dataset.error) == ("preparing", "")
    assert sent == [("worker.tasks.prepare_dataset", [dataset.pk])]


def test_deleting_removes_the_files_and_is_refused_while_it_is_used(
    settings: Any, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    settings.KDWEB_DATA = tmp_path
    keeper = browser(a_user("kay", Role.MAINTAINER))
    dataset = a_dataset()
    dataset.folder.mkdir(parents=True)
    run = a_run(dataset=dataset)
    url = reverse("dataset_delete", args=[dataset.pk])
    page = keeper.post(url, follow=True).content.decode()
    assert "would lose what they were measured with" in page
    run.delete()
    with django_capture_on_commit_callbacks(execute=True):
        assert keeper.post(url)["Location"] == reverse("dataset_list")
    assert not dataset.folder.exists()


def test_viewers_look_and_members_do_not_delete(bundled: DatasetKind) -> None:
    dataset = a_dataset(status="failed")
    viewer, member = browser(a_user("vic", Role.VIEWER)), browser(a_user("mem", Role.MEMBER))
    page = viewer.get(reverse("dataset_detail", args=[dataset.pk])).content.decode()
    assert "Try again" not in page
    assert b"New dataset" not in viewer.get(reverse("dataset_list")).content
    assert viewer.get(reverse("dataset_new")).status_code == 403
    assert viewer.post(reverse("dataset_new"), {"kind": "digits", "name": "x"}).status_code == 403
    assert viewer.post(reverse("dataset_retry", args=[dataset.pk])).status_code == 403
    assert member.post(reverse("dataset_delete", args=[dataset.pk])).status_code == 403
    assert Dataset.objects.get().status == "failed"


def test_datasets_of_other_projects_are_not_there() -> None:
    dataset = a_full_dataset()
    stranger = browser(a_user("sam", Role.MAINTAINER, a_project("Other")))
    assert stranger.get(reverse("dataset_detail", args=[dataset.pk])).status_code == 404
    assert stranger.get(reverse("dataset_sample", args=[dataset.pk, 0, 0])).status_code == 404
    for verb in ("dataset_retry", "dataset_delete"):
        assert stranger.post(reverse(verb, args=[dataset.pk])).status_code == 404
    assert b"No dataset yet" in stranger.get(reverse("dataset_list")).content


def test_the_role_that_counts_is_the_one_in_the_datasets_own_project() -> None:
    """Also while another project is the current one."""
    a_user("two", Role.MAINTAINER, a_project("A first"))
    here, dataset = browser(a_user("two", Role.VIEWER)), a_dataset()
    assert (
        "Delete"
        not in here.get(reverse("dataset_detail", args=[dataset.pk])).content.decode().split("</main>")[0]
    )
    assert here.post(reverse("dataset_delete", args=[dataset.pk])).status_code == 403
