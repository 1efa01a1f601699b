"""The first page: how near, how small, what runs, what needs somebody; the best student under a limit."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments import frontier, metric_store, sparkline
from experiments.models import Dataset, Project, Run, RunEvent, Worker

from . import make
from .people import a_user, browser, queries

pytestmark = pytest.mark.django_db


@pytest.fixture
def mia() -> Client:
    return browser(a_user("mia"))


def a_student(name: str, accuracy: float, parameters: int, **values: Any) -> Run:
    measured = {"top1": accuracy, "score": accuracy, "parameters": parameters, "latency_p50_ms": 1.0}
    teacher = {"top1": 0.98, "score": 0.98, "parameters": 1_000_000, "latency_p50_ms": 8.0}
    defaults = {
        "purpose": "distil", "status": "succeeded", "method_keys": "kd", "finished": timezone.now(),
        "accuracy": accuracy, "parameters": parameters, "bytes": 4 * parameters, "flops": 100 * parameters,
        "latency_ms": parameters / 1e5, "results": {"student": measured, "teacher": teacher},
    }  # fmt: skip
    return make.a_run(name=name, **(defaults | values))


def ranked(client: Client, **query: object) -> list[str]:
    """The names in the table of the best students, in its order."""
    text = client.get(reverse("home"), query, headers={"HX-Request": "true", "HX-Target": "frontier"}).text
    return re.findall(r'<td class="name"><a href="[^"]+">([^<]+)</a>', text)


# --- The best student under a limit -----------------------------------------------------------------------
def test_the_best_students_below_a_limit_are_ranked(mia: Client) -> None:
    a_student("small", 0.90, 80_000)
    a_student("middle", 0.95, 300_000)
    a_student("large", 0.97, 2_000_000)
    a_student("put away", 0.99, 80_000, shelf="archive")
    a_student("alone", 0.96, 80_000, purpose="control")
    assert ranked(mia) == ["large", "middle", "small"]
    assert ranked(mia, under="500k") == ["middle", "small"]
    assert ranked(mia, under="80000") == ["small"]
    assert ranked(mia, cost="bytes", under="1.2 MB") == ["middle", "small"]
    assert ranked(mia, cost="latency_ms", under="1 ms") == ["small"]
    nothing = mia.get(reverse("home"), {"under": "10k"}).text
    assert "none has been measured at 10.0\u00a0k or less" in nothing


def test_of_equally_good_ones_the_smaller_comes_first(mia: Client) -> None:
    a_student("large", 0.9, 2_000_000)
    a_student("small", 0.9, 80_000)
    assert ranked(mia) == ["small", "large"]


def test_the_whole_page_works_without_scripts(mia: Client) -> None:
    for n in range(1, 9):
        a_student(f"student {n}", 0.9 + n / 1000, 100_000 * n)
    page = mia.get(reverse("home")).text
    chip = re.search(r'id="chip-1" href="([^"]+)"', page)
    assert chip
    found = mia.get(chip[1].replace("&amp;", "&")).text
    assert "Best students up to" in found
    assert 'aria-current="true"' in found
    assert "student 8" not in found[found.index('id="frontier"') : found.index('id="pareto"')]


@pytest.mark.parametrize(
    ("cost", "text", "value"),
    [
        ("parameters", "500k", 5e5),
        ("parameters", "1.5 M", 1.5e6),
        ("parameters", "1,234,567", 1234567),
        ("bytes", "2MB", 2e6),
        ("bytes", "512 KiB", 512 * 1024),
        ("bytes", "300", 300),
        ("flops", "25 MFLOPs", 25e6),
        ("latency_ms", "5 ms", 5),
        ("latency_ms", "250µs", 0.25),
        ("latency_ms", "0.5s", 500),
    ],
)
def test_limits_as_people_write_them(cost: str, text: str, value: float) -> None:
    assert frontier.limit_of(text, cost) == pytest.approx(value)


@pytest.mark.parametrize(
    ("cost", "text"), [("parameters", "2 MB"), ("bytes", "5 ms"), ("flops", "-3"), ("bytes", "1,5")]
)
def test_what_is_no_limit_is_refused_with_an_example(mia: Client, cost: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(frontier.COSTS[cost].example)):
        frontier.limit_of(text, cost)
    page = mia.get(reverse("home"), {"cost": cost, "under": text, "dataset": "x"})
    a_student("any", 0.9, 1000)
    page = mia.get(reverse("home"), {"cost": cost, "under": text, "dataset": "x"})
    assert page.status_code == 200
    assert "is no limit for this" in page.text


@pytest.mark.parametrize("cost", list(frontier.COSTS))
def test_every_chip_is_understood_as_what_it_says(cost: str) -> None:
    for n in range(1, 9):
        a_student(f"s{n}", 0.9, 77_013 * n**3)
    values = frontier.quartiles(make.a_project(), make.a_dataset(), cost)
    assert len(values) == 3
    for value in values:
        text = frontier.COSTS[cost].show(value).replace("\u00a0", "")
        assert frontier.limit_of(text, cost) == pytest.approx(value)
    column = frontier.COSTS[cost].column
    half = Run.objects.filter(**{f"{column}__lte": values[1]}).count()
    assert half >= 4  # the model at the edge is within


def test_accuracies_on_different_data_are_not_mixed(mia: Client) -> None:
    a_student("on digits", 0.9, 80_000, finished=timezone.now() - timedelta(days=1))
    letters = make.a_dataset("letters")
    a_student("on letters", 0.5, 80_000, dataset=letters)
    assert ranked(mia) == ["on letters"]  # where the latest result is
    digits = Dataset.objects.get(name="digits")
    assert ranked(mia, dataset=digits.pk) == ["on digits"]


# --- The front, of any number of models ---------------------------------------------------------------------
def test_of_models_that_lie_on_each_other_the_best_is_drawn_and_the_front_is_whole() -> None:
    random = np.random.default_rng(0)
    costs, scores = random.choice([1e4, 1e5, 1e6], 5000), random.normal(0.9, 0.02, 5000)
    points = [
        frontier.Point(float(cost), float(score), str(pk), pk)
        for pk, (cost, score) in enumerate(zip(costs, scores, strict=True))
    ]
    kept = frontier.thinned(points)
    assert len(kept) < 400
    assert set(frontier.front_of(points)) <= set(kept)
    assert max(kept, key=lambda p: p.accuracy) == max(points, key=lambda p: p.accuracy)
    assert min(kept, key=lambda p: p.accuracy).accuracy - min(scores) < (max(scores) - min(scores)) / 100


# --- What moves -------------------------------------------------------------------------------------------
def test_a_running_run_shows_its_course(mia: Client) -> None:
    run = make.a_running_run(name="at work", step=50, total_steps=100, eta=90.0)
    metric_store.append(run.pk, 1, {"val/top1": metric_store.points([1, 2, 3], [0.1, 0.5, None], [1, 2, 3])})
    text = mia.get(reverse("home")).text
    assert "2.0,22.0 94.0,2.0" in text  # from the lowest at the left to the highest at the right
    assert "Validation accuracy so far" in text
    assert "1 min 30 s left".replace(" ", "\u00a0", 3) in text
    assert sparkline.of_runs([make.a_running_run()]) == {}


def test_what_needs_somebody_is_listed_and_what_does_not_is_not(mia: Client) -> None:
    now = timezone.now()
    Worker.objects.create(name="w1", host="h", queue="cpu", trouble="The device fell off the bus.")
    make.a_run(name="broke", status="failed", reason="NaN at step 7", finished=now)
    make.a_run(name="long ago", status="failed", reason="Old", finished=now - timedelta(days=30))
    make.a_run(name="dealt with", status="failed", reason="Archived", finished=now, shelf="archive")
    make.a_running_run(name="silent", silent_since=now)
    make.a_run(name="stuffed", status="paused", hold="disk")
    make.a_run(name="waits", status="queued", queued=now)
    text = mia.get(reverse("home"), headers={"HX-Request": "true"}).text
    listed = text[text.index("Needs attention") : text.index("Running now")]
    for words in (
        "The device fell off the bus.",
        "No worker takes runs",
        "NaN at step 7",
        "silent",
        "stuffed",
    ):
        assert words in listed
    assert "long ago" not in listed
    assert "dealt with" not in text
    for n in range(5):
        make.a_run(name=f"broke {n}", status="failed", finished=now)
    assert "3 more runs failed in the last week" in mia.get(reverse("home")).text


def test_the_activity_says_who_did_what(mia: Client) -> None:
    run = make.a_run(name="the run")
    RunEvent.objects.create(run=run, text="Submitted.", status="queued", actor="ann")
    other = Project.objects.create(name="Other", slug="other")
    RunEvent.objects.create(run=make.a_run(project=other), text="Not yours.", status="queued", actor="eve")
    text = mia.get(reverse("home")).text
    assert text.index("Activity") < text.index("the run") < text.index("Submitted.") < text.index("ann ·")
    assert "Not yours." not in text


def test_the_tiles_say_how_near_and_how_small(mia: Client) -> None:
    control = a_student("alone", 0.92, 80_000, purpose="control")
    a_student("kd", 0.95, 80_000, control=control, teacher=make.a_teacher("big one"))
    text = mia.get(reverse("home")).text
    tiles = text[text.index('class="tiles"') : text.index('id="frontier"')]
    for words in ("95.00\u00a0%", "98.00\u00a0%", "−3.00", "+3.00", "50\u00a0%", "12.5×", "8.00×", "big one"):
        assert words in tiles


def test_the_number_of_queries_does_not_grow_with_the_runs(mia: Client) -> None:
    def more(n: int) -> None:
        control = a_student("alone", 0.9, 80_000, purpose="control")
        a_student(f"kd {n}", 0.9, 80_000, control=control, teacher=make.a_teacher(f"t{n}"))
        make.a_running_run(name=f"r{n}", total_steps=9)
        make.a_run(status="failed", finished=timezone.now())
        make.a_run(status="queued", queued=timezone.now())

    more(0)
    more(1)
    few = queries(mia, reverse("home"))
    for n in range(2, 8):
        more(n)
    assert queries(mia, reverse("home")) <= few
