"""The pages of methods and workers, and the suggestions for an architecture."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments.models import Architecture, Method, Role, Run, Worker

from .make import a_dataset, a_project, a_run, an_architecture
from .people import a_user, browser, queries

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Client:
    return browser(a_user())


def a_worker(name: str = "cpu0@<b>here</b>", **values: Any) -> Worker:
    usage = {"cpu": 12.5, "memory": 40.0}
    return Worker.objects.create(name=name, host="here", queue="cpu", device="8 cores", usage=usage, **values)


def test_methods_show_formula_parameters_and_paper_escaped(client: Client) -> None:
    assert b"No methods are known yet" in client.get(reverse("method_list")).content
    Method.objects.create(
        key="kd",
        title="<b>Knowledge distillation</b>",
        formula="T²·KL(p_t ‖ p_s)",
        paper="Hinton et al. 2015",
        paper_url="https://arxiv.org/abs/1503.02531",
        schema={
            "properties": {
                "temperature": {"title": "Temperature", "default": 4.0, "description": "Softness."}
            }
        },
        needs=["logits"],
    )
    Method.objects.create(key="odd", title="odd", available=False, problem="SyntaxError in odd.py")
    page = client.get(reverse("method_list")).content.decode()
    for shown in (
        "&lt;b&gt;Knowledge",
        "T²·KL(p_t ‖ p_s)",
        "Softness.",
        "4.0",
        "logits",
        "SyntaxError in odd.py",
    ):
        assert shown in page, shown
    assert "<b>Knowledge" not in page
    assert reverse("run_new") + "?method=kd" in page
    assert "?method=odd" not in page, "what cannot be loaded is not offered"


def test_workers_show_what_they_do_and_who_went_silent(client: Client) -> None:
    assert b"No worker has ever reported" in client.get(reverse("worker_list")).content
    run = a_run(name="busy one", status=Run.Status.RUNNING)
    a_worker(run=run)
    a_worker("cpu1@there", heartbeat=timezone.now() - timedelta(minutes=2))
    page = client.get(reverse("worker_list")).content.decode()
    for shown in ("&lt;b&gt;here", "busy one", "8 cores", "Online", "Silent", "12", "40"):
        assert shown in page, shown
    part = client.get(reverse("worker_list"), headers={"HX-Request": "true"}).content
    assert b"<html" not in part


def test_a_worker_on_another_projects_run_does_not_tell_which(client: Client) -> None:
    other = a_project("Other")
    secret = a_run(project=other, name="top secret", status=Run.Status.RUNNING)
    a_run(project=other, name="also secret", status=Run.Status.QUEUED)
    a_worker(run=secret)
    page = client.get(reverse("worker_list")).content.decode()
    assert "a run of another project" in page
    assert "secret" not in page


def test_the_workers_page_costs_the_same_queries_for_one_and_for_twenty(client: Client) -> None:
    def more(n: int) -> None:
        a_worker(f"cpu{n}", run=a_run(status=Run.Status.RUNNING))
        a_run(status=Run.Status.QUEUED, control=a_run(status=Run.Status.SUCCEEDED))

    more(0)
    one = queries(client, reverse("worker_list"))
    for n in range(1, 15):
        more(n)
    assert queries(client, reverse("worker_list")) == one


def suggestions(client: Client, words: str) -> str:
    return client.get(reverse("architecture_options"), {"architecture": words}).content.decode()


def test_architectures_are_found_by_any_words_our_own_first(client: Client) -> None:
    for n in range(60):
        Architecture.objects.create(key=f"timm/a{n}", title="A <b>net</b>", family="a", source="timm")
    Architecture.objects.create(
        key="torchvision/resnet18",
        title="ResNet-18",
        family="resnet",
        source="torchvision",
        parameters=11_700_000,
    )
    an_architecture("resnet8")
    everything = suggestions(client, "")
    assert everything.count("<option") == 40
    assert (
        everything.index("resnet8") < everything.index("torchvision/resnet18") < everything.index("timm/a0")
    )
    found = suggestions(client, "18 RES")
    assert found.count("<option") == 1
    assert "11.7\u00a0M parameters" in found
    assert "<b>" not in everything
    assert suggestions(client, "nothing like it").strip() == ""


def test_a_person_without_a_project_gets_an_answer_everywhere() -> None:
    nobody = browser(a_user("new", None))
    for name in ("dataset_list", "teacher_list", "student_list", "dataset_new", "student_new"):
        assert nobody.get(reverse(name)).status_code == 404
    for name in ("method_list", "worker_list", "architecture_options"):
        assert nobody.get(reverse(name)).status_code == 200


def test_nothing_is_shown_to_the_anonymous() -> None:
    names = (
        "dataset_list",
        "teacher_list",
        "student_list",
        "method_list",
        "worker_list",
        "architecture_options",
    )
    urls = [reverse(name) for name in names]
    urls += [reverse("dataset_sample", args=[a_dataset().pk, 0, 0])]
    for url in urls:
        assert Client().get(url)["Location"].startswith(reverse("login"))


def test_pages_are_for_reading_only_by_the_verbs_that_read(client: Client) -> None:
    keeper = browser(a_user("kay", Role.MAINTAINER))
    dataset = a_dataset()
    assert keeper.post(reverse("dataset_list")).status_code == 405
    assert keeper.get(reverse("dataset_delete", args=[dataset.pk])).status_code == 405
    assert client.delete(reverse("student_new")).status_code == 405
