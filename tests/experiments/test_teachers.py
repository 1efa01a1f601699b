"""The pages of teachers, and the weights they give away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from experiments.models import Role, Run, Teacher

from .make import a_dataset, a_project, a_run, a_teacher
from .people import a_user, an_admin, browser, queries

pytestmark = pytest.mark.django_db
METRICS = {
    "top1": 0.9341,
    "top5": None,
    "loss": 0.21,
    "per_class": [0.5, None],
    "split": "test",
    "parameters": 1_230_000,
    "bytes": 4_920_000,
    "flops": 82_400_000,
    "latency_p50_ms": 0.84,
    "latency_p95_ms": 1.2,
}


@pytest.fixture
def client() -> Client:
    return browser(a_user())


def a_measured_teacher(name: str = "<b>big</b>", **values: Any) -> Teacher:
    dataset = a_dataset("pets", classes=["<i>cat</i>", "dog"])
    return a_teacher(name, dataset=dataset, metrics=METRICS, **values)


def test_the_list_says_what_to_do_when_there_is_none_and_shows_what_was_measured(client: Client) -> None:
    assert b"No teacher yet" in client.get(reverse("teacher_list")).content
    teacher = a_measured_teacher()
    a_run(teacher=teacher, purpose="distil", status="running", accuracy=0.99)
    a_run(teacher=teacher, purpose="distil", status="succeeded", accuracy=0.9127)
    page = client.get(reverse("teacher_list")).content.decode()
    for shown in (
        "&lt;b&gt;big",
        "93.41",
        "1.23\u00a0M",
        "4.92\u00a0MB",
        "82.4\u00a0MFLOPs",
        "0.840\u00a0ms",
        "91.27",
    ):
        assert shown in page, shown
    assert "<b>big" not in page
    assert "99.00" not in page, "the best validation so far is no measured student"


def test_the_list_costs_the_same_queries_for_one_and_for_twenty(client: Client) -> None:
    a_measured_teacher()
    one = queries(client, reverse("teacher_list"))
    for n in range(20):
        a_run(teacher=a_teacher(f"t{n}", dataset=a_dataset(f"d{n}")))
    assert queries(client, reverse("teacher_list")) == one


def test_the_page_shows_classes_origin_and_students(client: Client) -> None:
    teacher = a_measured_teacher(notes={"stripped": ["module."], "cast": "float16 → float32"})
    a_run(name="its student", teacher=teacher, control=a_run(name="alone"))
    page = client.get(reverse("teacher_detail", args=[teacher.pk])).content.decode()
    for shown in ("&lt;i&gt;cat", "50.0", "module.", "float16 → float32", "its student", "0.840\u00a0ms"):
        assert shown in page, shown
    assert "<i>cat" not in page


def test_the_page_costs_the_same_queries_for_one_and_for_twenty_students(client: Client) -> None:
    teacher = a_measured_teacher()
    url = reverse("teacher_detail", args=[teacher.pk])
    a_run(teacher=teacher, control=a_run())
    one = queries(client, url)
    for _ in range(15):
        a_run(teacher=teacher, control=a_run())
    assert queries(client, url) == one


@pytest.mark.parametrize("status", ["preparing", "failed", "ready"])
def test_the_page_works_in_every_state_before_anything_is_measured(client: Client, status: str) -> None:
    teacher = a_teacher(status=status, error="Its training failed. Out of memory.")
    run = a_run(purpose=Run.Purpose.TEACHER, makes=teacher, teacher=None)
    url = reverse("teacher_detail", args=[teacher.pk])
    whole, polled = client.get(url), client.get(url, headers={"HX-Request": "true"})
    assert whole.status_code == 200
    assert reverse("run_detail", args=[run.pk]).encode() in whole.content
    assert (b"Out of memory" in whole.content) == (status == "failed")
    assert (b"hx-trigger" in polled.content) == (status == "preparing")
    assert polled.has_header("HX-Refresh") == (status != "preparing")
    assert b"<html" not in polled.content


def test_training_one_is_a_run_like_any_other(client: Client) -> None:
    assert client.get(reverse("teacher_new"))["Location"] == reverse("run_new") + "?purpose=teacher"


def test_weights_are_an_attachment_and_come_from_below_the_data_folder_only(
    client: Client, settings: Any, tmp_path: Path
) -> None:
    settings.KDWEB_DATA = tmp_path / "data"
    (tmp_path / "data/teachers").mkdir(parents=True)
    (tmp_path / "data/teachers/1.safetensors").write_bytes(b"weights")
    (tmp_path / "secret").write_bytes(b"secret")
    teacher = a_teacher(weights="teachers/1.safetensors")
    url = reverse("teacher_weights", args=[teacher.pk])
    answer = client.get(url)
    assert answer.getvalue() == b"weights"
    assert answer["Content-Disposition"].startswith("attachment")
    for elsewhere in ("../secret", "/etc/hosts", "", "teachers/2.safetensors"):
        Teacher.objects.update(weights=elsewhere)
        assert client.get(url).status_code == 404, elsewhere


def test_deleting_waits_for_its_training_and_for_the_runs_that_use_it(
    settings: Any, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    settings.KDWEB_DATA = tmp_path
    keeper = browser(a_user("kay", Role.MAINTAINER))
    teacher = a_teacher("expert", status="preparing", source="uploaded", weights="w.safetensors")
    teacher.weights_path.write_bytes(b"weights")
    url = reverse("teacher_delete", args=[teacher.pk])
    assert "stop its run first" in keeper.post(url, follow=True).content.decode()
    Teacher.objects.update(status="ready")
    run = a_run(teacher=teacher)
    assert "would lose what they were measured with" in keeper.post(url, follow=True).content.decode()
    run.delete()
    with django_capture_on_commit_callbacks(execute=True):
        assert "is deleted" in keeper.post(url, follow=True).content.decode()
    assert not teacher.weights_path.exists()


def test_only_admins_bring_checkpoints_and_only_maintainers_delete(client: Client) -> None:
    teacher = a_measured_teacher()
    keeper = browser(a_user("kay", Role.MAINTAINER))
    assert keeper.get(reverse("teacher_upload")).status_code == 403
    assert b"Upload a checkpoint" not in keeper.get(reverse("teacher_list")).content
    assert client.post(reverse("teacher_delete", args=[teacher.pk])).status_code == 403
    page = browser(an_admin()).get(reverse("teacher_upload")).content.decode()
    assert "pets" in page
    assert 'list="architectures"' in page


def test_teachers_of_other_projects_are_not_there() -> None:
    teacher = a_measured_teacher()
    stranger = browser(a_user("sam", Role.MAINTAINER, a_project("Other")))
    assert stranger.get(reverse("teacher_detail", args=[teacher.pk])).status_code == 404
    assert stranger.get(reverse("teacher_weights", args=[teacher.pk])).status_code == 404
    assert stranger.post(reverse("teacher_delete", args=[teacher.pk])).status_code == 404
    assert b"No teacher yet" in stranger.get(reverse("teacher_list")).content
