"""The admin site: a door for checkpoints, no way to edit what workers write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from experiments.models import Method, Teacher, Upload, Worker

from .make import a_dataset, a_project, a_run, a_teacher, an_architecture
from .people import a_user, an_admin, browser

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Client:
    return browser(an_admin())


def bring(client: Client, filename: str = "w.safetensors", content: bytes = b"weights", **values: Any) -> Any:
    wish = {
        "project": a_project().pk,
        "name": "big",
        "description": "",
        "architecture": an_architecture("resnet8").pk,
        "dataset": a_dataset().pk,
        "checkpoint": SimpleUploadedFile(filename, content),
    }
    return client.post(reverse("admin:experiments_teacher_add"), wish | values)


def test_a_checkpoint_becomes_an_upload_for_a_worker_and_no_teacher_yet(
    client: Client, settings: Any, tmp_path: Path, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    settings.KDWEB_DATA = tmp_path
    with django_capture_on_commit_callbacks(execute=True):
        answer = bring(client)
    upload = Upload.objects.get()
    assert answer["Location"] == reverse("upload_status", args=[upload.pk])
    assert upload.path.read_bytes() == b"weights"
    assert upload.path.stat().st_mode & 0o777 == 0o600
    assert (upload.status, upload.received, upload.request["dataset"]) == ("checking", 7, a_dataset().pk)
    assert sent == [("worker.tasks.check_upload", [str(upload.pk)])]
    assert not Teacher.objects.exists()
    assert str(upload.pk) == LogEntry.objects.get().object_id


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"filename": "evil.exe"}, "“evil.exe” has another ending than expected. Send a state dict"),
        ({"name": ""}, "This field is required."),
        ({"name": "taken"}, "already exists"),
    ],
)
def test_a_refused_checkpoint_says_why_and_leaves_nothing(
    client: Client, values: dict[str, Any], words: str
) -> None:
    a_teacher("taken")
    answer = bring(client, **values)
    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert not Upload.objects.exists()


def test_the_dataset_must_be_ready_and_of_the_same_project(client: Client) -> None:
    half = a_dataset("half", status="preparing")
    assert "“half” is preparing. Wait until it is ready." in bring(client, dataset=half.pk).content.decode()
    answer = bring(client, project=a_project("Other").pk)
    assert "belongs to another project. Choose one of this project." in answer.content.decode()


def test_a_checkpoint_above_the_limit_is_refused(client: Client, settings: Any) -> None:
    settings.KDWEB_UPLOAD_LIMIT = 3
    assert "has 7 bytes; at most 3 are allowed" in bring(client).content.decode()


def test_what_was_measured_cannot_be_edited_only_its_name(client: Client) -> None:
    teacher = a_teacher("big", metrics={"top1": 0.9})
    url = reverse("admin:experiments_teacher_change", args=[teacher.pk])
    assert client.get(url).status_code == 200
    client.post(url, {"name": "bigger", "description": "", "metrics": "{}", "architecture": "other"})
    teacher.refresh_from_db()
    assert (teacher.name, teacher.metrics, teacher.architecture_id) == ("bigger", {"top1": 0.9}, "resnet8")


def test_every_list_and_the_history_of_a_run_open(client: Client) -> None:
    run = a_run(name="<script>")
    run.events.create(text="Submitted.", status="queued")
    Method.objects.create(key="kd", title="KD")
    Worker.objects.create(name="w1", host="h", queue="cpu")
    a_teacher()
    models = "project teacher dataset student experiment run architecture upload worker method datasetkind"
    for name in models.split():
        assert client.get(reverse(f"admin:experiments_{name}_changelist")).status_code == 200, name
    page = client.get(reverse("admin:experiments_run_change", args=[run.pk])).content.decode()
    assert "Submitted." in page
    assert "<script>" not in page.replace("<script src", "")


def test_runs_are_not_edited_added_or_deleted_here(client: Client) -> None:
    run = a_run()
    assert (
        client.post(reverse("admin:experiments_run_change", args=[run.pk]), {"name": "x"}).status_code == 403
    )
    assert client.post(reverse("admin:experiments_run_delete", args=[run.pk])).status_code == 403
    assert client.get(reverse("admin:experiments_run_add")).status_code == 403
    assert client.get(reverse("admin:experiments_dataset_add")).status_code == 403


def test_a_project_gets_its_members_here(client: Client) -> None:
    ann = a_user("ann", None)
    inline = {
        "memberships-TOTAL_FORMS": "1",
        "memberships-INITIAL_FORMS": "0",
        "memberships-0-user": ann.pk,
        "memberships-0-role": "viewer",
    }
    wish = {"name": "New team", "slug": "new-team", "description": ""}
    assert client.post(reverse("admin:experiments_project_add"), wish | inline).status_code == 302
    assert ann.projects.get().slug == "new-team"


def test_the_admin_site_is_for_staff(client: Client) -> None:
    member = browser(a_user())
    assert member.get(reverse("admin:index"))["Location"].startswith(reverse("admin:login"))
