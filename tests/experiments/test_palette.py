"""What the command palette finds, for whom, in which order, at which cost."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments.models import Experiment, Membership, Method, Project, SavedView, Student, Tag, Worker

from . import make
from .people import a_user, browser, queries

pytestmark = pytest.mark.django_db


@pytest.fixture
def ann() -> Client:
    return browser(a_user("ann"))


def found(client: Client, text: str) -> dict[str, list[str]]:
    """The names by kind."""
    answer = client.get(reverse("palette"), {"q": text})
    assert answer["Cache-Control"] == "no-store"
    return {group["label"]: [item["label"] for item in group["items"]] for group in answer.json()["groups"]}


def test_names_that_begin_so_come_first_then_those_that_hold_the_words_then_the_letters(ann: Client) -> None:
    for name in ("a kd net", "kd big", "net of kd", "k-big-d", "other", "KD small"):
        make.a_run(name=name)
    assert found(ann, "kd") == {"Runs": ["KD small", "kd big", "net of kd", "a kd net"]}
    assert found(ann, "big kd") == {"Runs": ["kd big"]}
    assert found(ann, "kbd") == {"Runs": ["k-big-d"]}
    assert found(ann, "") == {"Runs": ["KD small", "other", "k-big-d", "net of kd", "kd big", "a kd net"]}
    assert found(ann, "100%") == found(ann, "___") == {}


def test_a_run_is_found_by_its_number(ann: Client) -> None:
    run = make.a_run(name="the one")
    make.a_run(name=f"not {run.pk}")
    for text in (str(run.pk), f"#{run.pk}"):
        assert found(ann, text)["Runs"][0] == "the one"
    assert found(ann, "9" * 60) == {}


def test_everything_with_a_name_is_found_and_leads_somewhere(ann: Client) -> None:
    project = make.a_project()
    make.a_teacher("x teacher")
    make.a_dataset("x data")
    Student.objects.create(project=project, name="x student", architecture=make.an_architecture())
    Experiment.objects.create(project=project, name="x question")
    Method.objects.create(key="xm", title="Cross method", needs=["logits"], tasks=["single-label"])
    Worker.objects.create(name="x@host", host="host", queue="cpu")
    Tag.objects.create(project=project, name="x-tag")
    SavedView.objects.create(project=project, owner=a_user("ann"), name="x view", query="q=acc%3E0.9")
    run = make.a_run(name="x run")
    answer = ann.get(reverse("palette"), {"q": "x"}).json()["groups"]
    assert [group["label"] for group in answer] == [
        "Runs", "Saved views", "Experiments", "Tags", "Teachers", "Students", "Datasets", "Methods",
        "Workers",
    ]  # fmt: skip
    addresses = [item["url"] for group in answer for item in group["items"]]
    assert addresses[0] == reverse("run_detail", args=[run.pk])
    assert addresses[1].endswith("?q=acc%3E0.9")
    for address in addresses:
        assert ann.get(address).status_code == 200, address


def test_what_others_own_or_threw_away_is_not_found(ann: Client) -> None:
    other = Project.objects.create(name="Other", slug="other")
    for word, values in (
        ("theirs", {"project": other}),
        ("old", {"shelf": "trash"}),
        ("kept", {"shelf": "archive"}),
    ):
        make.a_run(name=f"x {word}", shelved=timezone.now(), **values)
    mine: Any = {"project": make.a_project(), "owner": a_user("bea")}
    SavedView.objects.create(name="x private", **mine)
    SavedView.objects.create(name="x shared", shared=True, **mine)
    Tag.objects.create(project=other, name="x-theirs")
    assert found(ann, "x") == {"Saved views": ["x shared"]}
    assert found(browser(a_user("nobody", None)), "x") == {}
    Membership.objects.create(user=a_user("ann"), project=other)
    assert found(ann, "x theirs")["Runs"] == ["x theirs"]


def test_its_cost_does_not_grow_with_what_is_found(ann: Client) -> None:
    make.a_run(name="one")
    few = queries(ann, reverse("palette") + "?q=o")
    for n in range(20):
        make.a_run(name=f"one {n}")
        Tag.objects.create(project=make.a_project(), name=f"o{n}")
    assert queries(ann, reverse("palette") + "?q=o") == few
