"""The Workers page: what each is and does, what waits, and who takes one out of rotation."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments import lifecycle
from experiments.models import Project, Role, Run, Worker

from . import make
from .people import a_user, an_admin, browser, queries

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sent")]
GPU = {"name": "NVIDIA H100", "utilisation": 37.0, "memory_used": 2 * 10**9, "memory_total": 85 * 10**9}
USAGE = {
    "cpu": 12.5, "cores": 16, "load": 3.25, "memory": 40.0, "memory_used": 51 * 10**9,
    "memory_total": 128 * 10**9, "engine_memory": 3 * 10**9, "disk_free": 700 * 10**9, "gpus": [GPU],
}  # fmt: skip


@pytest.fixture
def ann() -> Client:
    return browser(a_user("ann"))


@pytest.fixture
def max_() -> Client:
    return browser(a_user("max", Role.MAINTAINER))


def a_worker(name: str = "gpu0@here", **values: Any) -> Worker:
    usual = {"host": "here", "queue": "cpu,gpu", "device": "NVIDIA H100", "versions": {"torch": "2.13.0"}}
    return Worker.objects.create(name=name, **(usual | values))


def page(client: Client) -> str:
    response = client.get(reverse("worker_list"))
    assert response.status_code == 200
    return response.content.decode().replace("\xa0", " ")


def state(client: Client, name: str) -> str:
    card = page(client).split(f'data-worker="{name}"')[1]
    return card.split('data-state="')[1].split('"')[0]


# --- What is shown ------------------------------------------------------------------------------------------
def test_without_workers_the_page_says_how_to_start_one(ann: Client) -> None:
    text = page(ann)
    assert "No worker has ever reported" in text
    assert "make up" in text
    assert "Nothing waits." in text
    assert "Nothing is running." in text


def test_a_worker_shows_its_machine_and_its_gpu(ann: Client) -> None:
    a_worker(usage=USAGE)
    text = page(ann)
    for said in ("37 %", "2.00 GB / 85.0 GB", "12 %", "load 3.2 / 16", "51.0 GB / 128 GB", "700 GB"):
        assert said in text
    assert "Idle: it takes the next run." in text


def test_the_usage_of_an_earlier_version_is_no_error(ann: Client) -> None:
    a_worker(usage={"cpu": 3.0, "memory": 9.0})
    assert "9.0 %" in page(ann)


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        ({}, "online", "Online"),
        ({"heartbeat": timezone.now() - timedelta(minutes=5)}, "offline", "Not heard of since"),
        ({"drain": True}, "drained", "It may be stopped or updated now."),
        ({"trouble": "Out of rotation: the GPU fell off the bus."}, "in trouble", "fell off the bus"),
    ],
)
def test_the_badge_says_whether_it_takes_runs(
    ann: Client, values: dict[str, Any], expected: str, said: str
) -> None:
    a_worker(**values)
    assert state(ann, "gpu0@here") == expected
    assert said in page(ann)


def test_a_drained_worker_with_a_run_is_still_draining(ann: Client) -> None:
    a_worker(drain=True, run=make.a_running_run())
    assert state(ann, "gpu0@here") == "draining"
    assert "Ends the run it has and takes no other." in page(ann)


def test_what_it_does_is_told_to_those_who_may_see_it(ann: Client) -> None:
    theirs = make.a_running_run(name="secret", project=Project.objects.create(name="Other", slug="other"))
    ours = make.a_running_run(name="ours", step=30, total_steps=100, phase="Training")
    a_worker("w1", run=theirs)
    a_worker("w2", run=ours)
    text = page(ann)
    assert "secret" not in text
    assert "a run of another project" in text
    assert "1 run of another project is running." in text
    assert reverse("run_detail", args=[ours.pk]) in text
    assert "30 %" in text
    assert "secret" in page(browser(an_admin()))


def test_versions_that_differ_between_the_living_are_marked(ann: Client) -> None:
    a_worker("w1", versions={"torch": "2.13.0", "kdweb": "0.1"})
    a_worker("w2", versions={"torch": "2.12.0", "kdweb": "0.1"})
    a_worker("old", versions={"kdweb": "0.0"}, heartbeat=timezone.now() - timedelta(days=1))
    assert page(ann).count("tag differs") == 2


# --- The queue ----------------------------------------------------------------------------------------------
def queued(name: str, **values: Any) -> Run:
    run = make.a_run(name=name, **values)
    assert lifecycle.submit(run, "ann")
    return run


def test_the_queue_stands_in_its_order_and_counts_what_is_others(ann: Client) -> None:
    other = Project.objects.create(name="Other", slug="other")
    for name in ("low", "usual", "urgent"):
        queued(name)
    queued("theirs", project=other, priority=1)
    lifecycle.set_priority(Run.objects.get(name="urgent"), 1, "ann")
    lifecycle.set_priority(Run.objects.get(name="low"), -1, "ann")
    queued("stuck", purpose="distil", teacher=make.a_teacher("slow", status="preparing"))
    text = page(ann)
    card = text[text.index("by priority, then in turn") :]
    order = [card.index(f">{name}</a>") for name in ("urgent", "usual", "low", "stuck")]
    assert order == sorted(order)
    assert "Waits for the teacher slow" in card
    assert "theirs" not in text
    assert "1 run of another project waits as well." in card
    places = [card[i:].split("</td>")[0] for i in range(len(card)) if card.startswith('<td class="num">', i)]
    shown = [place.removeprefix('<td class="num">') for place in places][::2]
    assert set(shown[:3]) <= {"1st", "2nd", "3rd", "4th"}
    assert shown[3] == "–"


def test_the_page_costs_no_query_for_each_row(ann: Client) -> None:
    a_worker(run=make.a_running_run(name="r"))
    queued("first")
    few = queries(ann, reverse("worker_list"))
    for n in range(8):
        a_worker(f"w{n}", run=make.a_running_run(name=f"r{n}", lease_owner=f"w{n}"))
        queued(f"q{n}")
    assert queries(ann, reverse("worker_list")) == few


def test_the_page_renews_itself_by_a_part(ann: Client) -> None:
    response = ann.get(reverse("worker_list"), headers={"HX-Request": "true"})
    assert response.content.decode().lstrip().startswith('<div class="stack" id="workers"')


# --- Out of rotation ----------------------------------------------------------------------------------------
def test_maintainers_and_admins_drain_and_undrain(max_: Client) -> None:
    worker = a_worker()
    address = reverse("worker_drain", args=[worker.name])
    for client in (max_, browser(an_admin())):
        assert address in page(client)
        for drain, said in (
            ("1", "takes no further run"), ("1", "is drained already"),
            ("0", "takes runs again"), ("0", "takes runs already"),
        ):  # fmt: skip
            assert said in client.post(address, {"drain": drain}, follow=True).content.decode()
            worker.refresh_from_db()
            assert worker.drain is (drain == "1")


def test_members_see_no_button_and_may_not(ann: Client) -> None:
    worker = a_worker()
    for name in ("worker_drain", "worker_remove"):
        address = reverse(name, args=[worker.name])
        assert address not in page(ann)
        assert ann.post(address, {"drain": "1"}).status_code == 403
    assert "needs the role maintainer" in page(ann)
    assert not Worker.objects.get().drain


def test_only_a_worker_that_is_silent_for_long_is_removed(max_: Client) -> None:
    run = make.a_run(status="succeeded")
    a_worker("alive")
    a_worker("asleep", heartbeat=timezone.now() - timedelta(minutes=30))
    a_worker("gone", heartbeat=timezone.now() - timedelta(hours=2), run=run)
    text = page(max_)
    assert reverse("worker_remove", args=["gone"]) in text
    for name in ("alive", "asleep"):
        address = reverse("worker_remove", args=[name])
        assert address not in text
        assert f"{name} stays" in max_.post(address, follow=True).content.decode()
    address = reverse("worker_remove", args=["gone"])
    assert "gone is forgotten." in max_.post(address, follow=True).content.decode()
    assert "gone stays" in max_.post(address, follow=True).content.decode()  # once is enough
    assert sorted(Worker.objects.values_list("name", flat=True)) == ["alive", "asleep"]
    assert Run.objects.filter(pk=run.pk).exists()
