"""Runs side by side."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from experiments import run_config
from experiments.models import Membership, Project, Role, Run
from experiments.views.compare import LIMIT

from . import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def mia() -> Client:
    user = User.objects.create_user("mia")
    Membership.objects.create(project=make.a_project(), user=user, role=Role.VIEWER)
    client = Client()
    client.force_login(user)
    return client


def a_kd_run(temperature: float, **values: object) -> Run:
    term = {"method": "kd", "weight": 0.9, "params": {"temperature": temperature}}
    objective = {"task_weight": 0.1, "label_smoothing": 0.0, "terms": [term]}
    return make.a_run(objective=objective, method_keys="kd", **values)


def test_only_what_differs_is_listed() -> None:
    first, second = a_kd_run(4.0), a_kd_run(8.0, training=make.a_run().training | {"epochs": 99})
    rows = {row.label: row.shown for row in run_config.differences([first, second])}
    assert rows == {"kd temperature": ["4", "8"], "epochs": ["10", "99"]}


def test_a_term_that_only_one_run_has_is_a_difference() -> None:
    rows = {row.label: row.shown for row in run_config.differences([a_kd_run(4.0), make.a_run()])}
    assert rows["weight of kd"] == ["0.9", "–"]
    assert rows["weight of CE"] == ["0.1", "1"]


def test_the_same_method_twice_keeps_both_terms_apart() -> None:
    terms = [{"method": "kd", "weight": w, "params": {"temperature": 1.0}} for w in (0.2, 0.3)]
    run = make.a_run(objective={"task_weight": 1.0, "label_smoothing": 0.0, "terms": terms})
    flat = run_config.flatten(run)
    assert (flat["weight of kd"], flat["weight of kd_2"]) == (0.2, 0.3)


def test_the_page_shows_the_runs_of_the_address_in_its_order(mia: Client) -> None:
    first, second = a_kd_run(4.0, name="first one"), a_kd_run(8.0, name="<b>second</b>")
    text = mia.get(reverse("run_compare"), {"run": [second.pk, first.pk]}).text
    assert text.index("&lt;b&gt;second") < text.index("first one")
    assert "<b>second" not in text
    assert f"runs={second.pk}%2C{first.pk}" in text
    assert "Kd temperature" in text


def test_ids_in_one_parameter_do_as_well(mia: Client) -> None:
    run = a_kd_run(4.0, name="the one")
    text = mia.get(reverse("run_compare"), {"ids": f"{run.pk},x,999999"}).text
    assert "the one" in text
    assert "Add a second run" in text


def test_runs_of_another_project_are_left_out(mia: Client) -> None:
    theirs = a_kd_run(4.0, name="theirs", project=Project.objects.create(name="Other", slug="other"))
    mine = a_kd_run(4.0, name="mine")
    text = mia.get(reverse("run_compare"), {"run": [theirs.pk, mine.pk]}).text
    assert "theirs" not in text
    assert f"runs={mine.pk}" in text


def test_more_than_can_be_drawn_are_cut_and_that_is_said(mia: Client) -> None:
    runs = [a_kd_run(4.0, name=f"run {number}") for number in range(LIMIT + 3)]
    response = mia.get(reverse("run_compare"), {"run": [run.pk for run in runs]})
    assert f"the first {LIMIT} of those chosen" in response.text
    assert f"run {LIMIT}" not in response.text


def test_the_number_of_queries_does_not_grow_with_the_runs(
    mia: Client, django_assert_max_num_queries: object
) -> None:
    runs = [a_kd_run(4.0, control=make.a_run(), teacher=make.a_teacher(f"t{n}")) for n in range(20)]
    with django_assert_max_num_queries(10):
        mia.get(reverse("run_compare"), {"run": [run.pk for run in runs]})


def test_with_nothing_chosen_recent_runs_are_offered(mia: Client) -> None:
    assert "Nothing to compare yet" in mia.get(reverse("run_compare")).text
    run = a_kd_run(4.0)
    assert f'name="run" value="{run.pk}"' in mia.get(reverse("run_compare")).text
