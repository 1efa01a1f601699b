"""Runs side by side."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from experiments import comparison, run_config
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


# --- The list, the table, the settings ----------------------------------------------------------------------
def ended(name: str, accuracy: float, seed: int = 0, temperature: float = 4.0, **values: object) -> Run:
    student = {"top1": accuracy, "score": accuracy, "parameters": 78_000, "agreement": accuracy, "ece": 0.01}
    results = {"student": student, "teacher": student | {"score": 0.98, "parameters": 780_000}}
    training = make.a_run().training | {"seed": seed}
    numbers = {"accuracy": accuracy, "parameters": 78_000, "latency_ms": 1.0 + seed, "purpose": "distil"}
    more = {"status": "succeeded", "results": results, "training": training} | numbers | values
    return a_kd_run(temperature, name=name, **more)


def test_every_run_has_its_own_colour_and_a_dash_where_two_share_one(mia: Client) -> None:
    runs = [a_kd_run(4.0) for _ in range(41)]
    assert runs[0].colour == runs[20].colour == runs[40].colour
    found = comparison.entries([runs[0], runs[1], runs[20], runs[40]])
    assert [entry.dash for entry in found] == ["solid", "solid", "dash", "dot"]
    figures = mia.get(f"/api/compare/charts?runs={runs[0].pk}").json()
    assert figures["runs"][0]["colour"] == runs[0].colour


def test_the_best_of_each_column_is_marked_once_there_is_a_best() -> None:
    runs = [ended("a", 0.91), ended("b", 0.95, seed=1)]
    measures, rows = comparison.table(comparison.entries(runs))
    best = {
        (entry.name, one.key)
        for entry, cells in rows
        for one, cell in zip(measures, cells, strict=True)
        if cell.best
    }
    expected = {("b", "accuracy"), ("b", "delta"), ("b", "agreement"), ("a", "latency_ms")}
    assert best == expected  # parameters, ECE and compression are equal: nothing stands out


def test_accuracies_of_different_kinds_are_named_and_none_is_the_best(mia: Client) -> None:
    labels = make.a_dataset("labels", info={"task": "multi-label"})
    runs = [ended("a", 0.91), ended("b", 0.75, dataset=labels)]
    found = comparison.entries(runs)
    measures, rows = comparison.table(found)
    assert [cells[0].note for _entry, cells in rows] == ["top-1", "mAP"]
    assert not any(
        cell.best for _e, cells in rows for cell, one in zip(cells, measures, strict=True) if one.percent
    )
    text = mia.get(reverse("run_compare"), {"run": [run.pk for run in runs]}).text
    assert "do not compare: no best is marked" in text


def test_runs_that_differ_in_nothing_but_the_seed_are_one(mia: Client) -> None:
    runs = [ended(f"kd T4 · seed {seed}", 0.90 + seed / 100, seed) for seed in range(3)]
    runs.append(ended("kd T8", 0.95, 0, temperature=8.0))
    assert [len(entry.runs) for entry in comparison.entries(runs)] == [1, 1, 1, 1]
    group, alone = comparison.entries(runs, seeds=True)
    accuracy = comparison.RESULT["accuracy"]
    assert (group.name, len(group.runs), alone.name) == ("kd T4", 3, "kd T8")
    assert group.value(accuracy) == pytest.approx(0.91)
    assert group.deviation(accuracy) == pytest.approx(0.01)
    assert alone.deviation(accuracy) is None
    text = mia.get(reverse("run_compare"), {"ids": ",".join(str(r.pk) for r in runs), "seeds": "1"}).text
    assert "91.00\u00a0%" in text
    assert "±1.00" in text
    assert "0, 1, 2" in text  # the seeds, in the settings


def test_equal_settings_are_out_of_sight_until_asked_for(mia: Client) -> None:
    ids = ",".join(str(run.pk) for run in (ended("a", 0.9), ended("b", 0.9, temperature=8.0)))
    text = mia.get(reverse("run_compare"), {"ids": ids}).text
    assert "only-differs" in text
    assert text.count("data-differs>") == 1
    assert "only-differs" not in mia.get(reverse("run_compare"), {"ids": ids, "all": "1"}).text
    assert "data-differs>" in mia.get(reverse("run_compare"), {"ids": ids, "all": "1"}).text


def test_the_address_holds_the_page_and_a_run_can_leave_it(mia: Client) -> None:
    first, second = ended("a", 0.9), ended("b", 0.8)
    query = {
        "ids": f"{first.pk},{second.pk}",
        "y": "latency_ms",
        "logy": "1",
        "cost": "bytes",
        "hide": str(second.pk),
    }
    text = mia.get(reverse("run_compare"), query).text
    assert '<option value="latency_ms" selected>Latency' in text
    assert 'value="bytes" data-param="cost" checked' in text
    assert text.count("data-hidden>") == 1
    assert f'href="?ids={first.pk}&amp;y=latency_ms&amp;logy=1&amp;cost=bytes&amp;hide={second.pk}"' in text
