"""The list of runs: its query language, order, groups, columns, pages, file and saved views."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments import lifecycle, run_values
from experiments.models import Project, Role, Run, RunValue, SavedView, Series, Star, Tag
from experiments.run_filter import BadQuery, columns, filtered, query
from experiments.run_filter.complete import complete
from worker.distill.spec import Objective, Term, Training

from . import make
from .people import a_user, browser
from .test_run_pages import MEASURED, a_control, a_distilled, everything, names

pytestmark = pytest.mark.django_db


@pytest.fixture
def mia() -> Client:
    return browser(a_user("mia"))


# --- The query line -----------------------------------------------------------------------------------------
def test_the_query_line_finds_what_it_says() -> None:
    big = make.a_teacher("big")
    control = a_control()
    a_distilled(name="a", teacher=big, accuracy=0.95, control=control)
    a_distilled(name="b", method_keys="fitnet+kd", accuracy=0.80, status="failed", results={})
    a_distilled(name="c", method_keys="dkd", accuracy=0.99, architecture=make.an_architecture("vgg8"))
    for line, found in {
        "method:kd": ["a", "b"],  # not dkd
        "method:fitnet,dkd": ["b", "c"],
        "status:failed": ["b"],
        "is:failed": ["b"],
        "-status:failed purpose:distil": ["a", "c"],
        "student:vgg": ["c"],
        'teacher:"big" acc>0.9': ["a", "c"],
        "teacher:big acc>90% -student:vgg8": ["a"],
        "acc>=95 acc<0.96": ["a"],
        "acc:94%..96%": ["a"],
        "gain>1.9 gain<2.1": ["a"],
        "ratio>10 purpose:distil": ["a", "c"],
        "params<1M student:resnet8 status:succeeded purpose:distil": ["a"],
        "seed:0 vgg8": ["c"],
        "alone": ["alone"],
        "status:failed or student:vgg8": ["b", "c"],
        "-(status:failed or student:vgg8) purpose:distil": ["a"],
        "(acc>0.98 or method:fitnet) -status:failed": ["c"],
        "not status:failed and purpose:distil": ["a", "c"],
        "status!=succeeded": ["b"],
        "": ["a", "alone", "b", "c"],
    }.items():
        assert names(line) == found, line


def test_any_parameter_and_any_metric_can_be_asked_for() -> None:
    hot = Objective(terms=[Term(method="kd", weight=0.9, params={"temperature": 8.0})]).model_dump()
    adam = Training(optimizer="adamw", learning_rate=0.002).model_dump()
    first = a_distilled(name="hot", objective=hot, training=adam)
    second = a_distilled(name="cool")
    for run, best in ((first, 0.94), (second, 0.97)):
        Series.objects.create(run=run, name="val/top1", last=best - 0.1, best=best, min=0.1, max=best)
        Series.objects.create(run=run, name="lr", last=1 - best)
    for line, found in {
        "kd.temperature:8": ["hot"],
        "temperature<5": ["cool"],
        "lr<0.01": ["hot"],
        "learning_rate:0.001..0.01": ["hot"],
        "optimizer:AdamW": ["hot"],
        "-optimizer:adamw": ["cool"],
        "batch_size:128": ["cool", "hot"],
        "val/top1.best>0.95": ["cool"],
        "val/top1>95%": ["cool"],  # of a metric with a better way, its best
        "val/top1.last<0.85": ["hot"],
        "lr.last>0.05": ["hot"],
        "pretrained:no": ["cool", "hot"],
    }.items():
        assert names(line) == found, line
    assert names("", "-val/top1.best") == ["cool", "hot"]
    assert names("val/top1.best>0", "-val/top1.last") == ["cool", "hot"]  # two statistics of one series
    assert names("", "kd.temperature") == ["cool", "hot"]
    assert names("", "-optimizer") == ["cool", "hot"]


def test_marks_and_shelves() -> None:
    me = a_user("mia")
    runs = {name: a_distilled(name=name) for name in ("mine", "starred", "tagged", "archived", "trashed")}
    Run.objects.filter(name="mine").update(owner=me)
    Star.objects.create(run=runs["starred"], user=me)
    Star.objects.create(run=runs["tagged"], user=a_user("noa"))
    Tag.objects.create(project=make.a_project(), name="Ship").runs.add(runs["tagged"])
    Run.objects.filter(name="archived").update(shelf=Run.Shelf.ARCHIVE)
    Run.objects.filter(name="trashed").update(shelf=Run.Shelf.TRASH)

    def found(line: str) -> list[str]:
        return [run.name for run in filtered(Run.objects.all(), line, "name", me)]

    at_hand = ["mine", "starred", "tagged"]
    for line, there in {
        "": at_hand,
        "is:mine": ["mine"],
        "owner:mia": ["mine"],
        "is:starred": ["starred"],
        "tag:ship": ["tagged"],
        "is:tagged": ["tagged"],
        "-is:tagged": ["mine", "starred"],
        "is:archived": ["archived"],
        "is:trashed": ["trashed"],
        "is:archived or is:mine": ["archived", "mine"],
        "-is:archived": at_hand,
        "is:anywhere": ["archived", *at_hand, "trashed"],
    }.items():
        assert found(line) == there, line


def test_days() -> None:
    now = timezone.localtime()
    for name, days in (("new", 0), ("week", 6), ("old", 40)):
        a_distilled(name=name, created=now - timedelta(days=days))
    old = now - timedelta(days=40)
    assert names("created:7d") == ["new", "week"]
    assert names("-created:7d") == ["old"]
    assert names("created:today") == ["new"]
    assert names(f"created:{old:%Y-%m-%d}") == ["old"]
    assert names(f"created>{old:%Y-%m-%d}") == ["new", "week"]
    assert names(f"created>={old:%Y-%m-%d} created<=today") == ["new", "old", "week"]
    assert names(f"created<{now - timedelta(days=20):%Y-%m-%d}") == ["old"]
    assert names(f"created:{old:%Y-%m-%d}..{now - timedelta(days=5):%Y-%m-%d}") == ["old", "week"]


def test_before_a_run_has_measured_its_teacher_the_teacher_s_own_numbers_count() -> None:
    strong = make.a_teacher("strong", metrics={"top1": 0.99, "parameters": 780_000})
    weak = make.a_teacher("weak", metrics={"top1": 0.60, "parameters": 156_000})
    for name, teacher in (("under strong", strong), ("under weak", weak)):
        a_distilled(name=name, teacher=teacher, results={"student": MEASURED})
    assert names("teacher_acc>0.9") == ["under strong"]
    assert names("delta>0") == ["under weak"]
    assert names("ratio>5") == ["under strong"]
    assert names("", "-delta") == ["under weak", "under strong"]


def test_lost_runs_are_those_whose_worker_a_sweep_found_silent() -> None:
    a_distilled(name="quiet", status="running", silent_since=timezone.now())
    a_distilled(name="busy", status="running", lease_expires=timezone.now() + timedelta(minutes=1))
    assert names("status:lost") == ["quiet"]
    assert names("status:running") == ["busy"]
    assert names("status:active") == ["busy", "quiet"]


@pytest.mark.parametrize(
    ("line", "marked", "said"),
    [
        ("method:kd foo:bar", "foo", "is no key of the filter"),
        ("lrr>1", "lrr", "Did you mean lr?"),
        ("acc>high", "high", "Write for example acc>90%"),
        ("status:broken", "broken", "Choose one of draft, queued"),
        ("is:gone", "gone", "Choose one of starred, mine"),
        ("purpose:other", "other", "Choose one of distil, control, teacher"),
        ("kd acc>", "acc>", "Write for example acc>90%"),
        ("student>3", "student>3", "write student:3"),
        ('name:"open', '"open', "not closed"),
        ("acc>nan", "nan", "is no number"),
        ("(method:kd", "(", "not closed"),
        ("method:kd or", "or", "on both sides"),
        (">5", ">5", "no key before >"),
        ("val/tpo1.best>0.9", "val/tpo1.best", "is no metric"),
        ("created>soon", "soon", "is no date"),
        ("created>7d", "created>7d", "could mean two things"),
        ("x" * 501, None, "longer than 500"),
    ],
)
def test_a_query_that_is_wrong_says_where_and_why(
    mia: Client, line: str, marked: str | None, said: str
) -> None:
    with pytest.raises(BadQuery) as caught:
        filtered(Run.objects.all(), line, "name")
    assert said in str(caught.value)
    place = caught.value.place
    assert (line[place.start : place.end] if place else None) == marked
    response = mia.get(reverse("run_list"), {"q": line})
    assert response.status_code == 200
    assert 'role="alert"' in response.text
    assert ("<mark>" in response.text) == (marked is not None)
    assert mia.get(reverse("run_csv"), {"q": line}).status_code == 400


@pytest.mark.parametrize(
    "line", ["'", "((((", ")))", "- -", "a:b:c", "é>\u0000", "or", "%", "_", "a" * 99 + "(", "id:1e99"]
)
def test_no_line_breaks_the_page(mia: Client, line: str) -> None:
    a_distilled()
    assert (
        mia.get(reverse("run_list"), {"q": line, "sort": "nosuch", "page": "x", "per": "7"}).status_code
        == 200
    )


def test_every_column_is_shown_sorted_by_and_asked_for(mia: Client) -> None:
    everything()
    every = list(columns.BUILT_IN.values())
    for column in every:
        if column.sortable:
            up, down = names("", column.key), names("", f"-{column.key}")
            assert len(up) == len(down) == Run.objects.count()
        if column.numeric:
            names(f"{column.key}>=0")
    wanted = {"columns": ",".join(column.key for column in every)}
    text = mia.get(reverse("run_list"), wanted).text
    assert text.count('scope="col"') == len(every)
    assert names("acc>0", "acc")[0] == "alone"


# --- What is kept of a run ----------------------------------------------------------------------------------
def test_what_is_kept_is_what_the_run_says() -> None:
    control = a_control()
    run = a_distilled(control=control)
    kept = {value.key: value.number for value in RunValue.objects.filter(run=run)}
    ratios = run.compression()
    assert kept["teacher_acc"] == run.teacher_accuracy
    assert (kept["delta"], kept["gain"], kept["gap_closed"]) == (run.delta_teacher, run.gain, run.gap_closed)
    assert (kept["ratio"], kept["ratio_bytes"]) == (ratios["parameters"], ratios["bytes"])
    assert (kept["ratio_flops"], kept["speed_up"]) == (ratios["flops"], ratios["latency"])


def test_a_gain_comes_with_the_control_s_end_and_goes_with_the_control() -> None:
    control = make.a_running_run(name="control")
    a_distilled(name="student", control=control)
    assert names("gain>0") == []
    assert lifecycle.succeed(control.pk, 1, {"student": {**MEASURED, "top1": 0.9}, "teacher": None})
    assert names("gain>4 gain<6") == ["student"]
    lifecycle.delete(Run.objects.get(pk=control.pk), "mia")
    assert names("gain>0") == []


def test_runs_that_differ_in_the_seed_alone_have_the_same_settings() -> None:
    teacher = make.a_teacher("one")
    seeds = [a_distilled(teacher=teacher, training=Training(seed=n).model_dump()) for n in range(2)]
    other = a_distilled(teacher=teacher, training=Training(epochs=99).model_dump())
    assert len({run_values.settings(run) for run in seeds}) == 1
    assert run_values.settings(other) != run_values.settings(seeds[0])


# --- The page -----------------------------------------------------------------------------------------------
def test_the_list_takes_as_many_queries_for_fifty_runs_as_for_one(
    mia: Client, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        a_distilled(name=f"run {number}", control=a_control(name=f"control {number}"))
    with django_assert_max_num_queries(18) as few:
        assert mia.get(reverse("run_list"), {"q": '"run 7"'}).text.count("data-run=") == 1
    with django_assert_max_num_queries(18) as many:
        response = mia.get(reverse("run_list"), {"q": "run"})
    assert response.text.count("data-run=") == 50
    assert len(many) == len(few)
    assert not any("metricchunk" in query["sql"] for query in many.captured_queries)
    bare = [q["sql"] for q in many.captured_queries if '"experiments_run"."results"' in q["sql"]]
    assert bare == []


def test_pages_keep_query_sort_and_columns(mia: Client) -> None:
    for number in range(55):
        a_distilled(name=f"run {number:02}", teacher=make.a_teacher(f"t{number}"))
    response = mia.get(reverse("run_list"), {"q": "run", "sort": "name", "columns": "name,acc", "page": 2})
    assert response.text.count("data-run=") == 5
    assert "q=run&amp;sort=name&amp;columns=name%2Cacc&amp;page=1" in response.text
    assert "?q=run&amp;sort=name&amp;columns=name,acc&amp;per=100" in response.text
    assert mia.get(reverse("run_list"), {"q": "run", "per": 100}).text.count("data-run=") == 55


def test_who_has_seen_it_is_told_that_nothing_changed(mia: Client) -> None:
    a_distilled()
    ask = {"HX-Request": "true"}
    first = mia.get(reverse("run_list"), headers=ask)
    assert mia.get(reverse("run_list"), headers=ask | {"X-Seen": first["X-Seen"]}).status_code == 204
    a_distilled(name="another")
    assert mia.get(reverse("run_list"), headers=ask | {"X-Seen": first["X-Seen"]}).status_code == 200


def test_what_a_person_wrote_is_escaped_in_every_cell(mia: Client) -> None:
    evil = "<b>x</b>"
    run = a_distilled(name=evil, method_keys=evil, teacher=make.a_teacher(evil))
    Tag.objects.create(project=run.project, name=evil).runs.add(run)
    RunValue.objects.create(run=run, key=evil, text=evil)
    for asked in ({}, {"columns": f"name,tags,{evil}"}, {"group": f"teacher,{evil}"}, {"group": "settings"}):
        assert evil not in mia.get(reverse("run_list"), asked).text


def test_columns_that_do_not_differ_are_hidden(mia: Client) -> None:
    teacher = make.a_teacher("one")
    for number in range(3):
        a_distilled(name=f"run {number}", teacher=teacher, accuracy=0.9 + number / 100)
    text = mia.get(reverse("run_list"), {"differ": "1", "columns": "name,acc,method,dataset"}).text
    assert ">Accuracy</a>" in text
    assert ">Method</a>" not in text
    assert "2 columns are hidden" in text


# --- Groups -------------------------------------------------------------------------------------------------
def test_groups_have_mean_and_deviation_and_open(mia: Client) -> None:
    teacher = make.a_teacher("one")
    for method, scores in (("kd", (0.90, 0.92, 0.94)), ("at", (0.80,))):
        for seed, accuracy in enumerate(scores):
            training = Training(seed=seed).model_dump()
            name = f"{method} · seed {seed}"
            a_distilled(name=name, teacher=teacher, method_keys=method, accuracy=accuracy, training=training)
    asked = {"group": "method", "sort": "-acc", "columns": "name,acc,seed"}
    text = mia.get(reverse("run_list"), asked).text.replace("\xa0", " ")
    assert "data-run=" not in text
    assert text.index("</span>kd") < text.index("</span>at")
    assert '92.00 % <span class="faint">± 2.00 %</span>' in text
    assert ">80.00 %</td>" in text  # of one run there is no scatter
    key = text.split('data-group="')[1][:8]
    opened = mia.get(reverse("run_list"), asked | {"open": key}).text
    assert opened.count("data-run=") == 3
    rows = list(csv.DictReader(io.StringIO(mia.get(reverse("run_csv"), asked).text)))
    assert [row["method"] for row in rows] == ["kd", "at"]
    assert (rows[0]["runs"], float(rows[0]["acc mean"])) == ("3", pytest.approx(0.92))
    assert float(rows[0]["acc std"]) == pytest.approx(0.02)


def test_runs_are_grouped_by_parameters_and_settings(mia: Client) -> None:
    teacher = make.a_teacher("one")
    for seed in range(2):
        for rate in (0.1, 0.01):
            training = Training(seed=seed, learning_rate=rate).model_dump()
            a_distilled(name=f"at {rate} · seed {seed}", teacher=teacher, training=training)
    a_control()
    text = mia.get(reverse("run_list"), {"group": "learning_rate,kd.temperature"}).text
    assert text.count("data-group=") == 3
    text = mia.get(reverse("run_list"), {"group": "settings", "q": "purpose:distil"}).text
    assert text.count("data-group=") == 2
    assert ">at 0.1<" in text.replace("</span>at", "</span>>at").replace(
        "</span></a>", "<"
    )  # without its seed


# --- The file -----------------------------------------------------------------------------------------------
def test_the_csv_holds_what_is_shown_all_pages_and_no_formulas(mia: Client) -> None:
    for number in range(55):
        a_distilled(name=f"=cmd|{number}", teacher=make.a_teacher(f"t{number}"), control=a_control())
    asked = {"q": "purpose:distil", "columns": "name,student,gain,ratio,lr,val/top1.best", "sort": "-name"}
    response = mia.get(reverse("run_csv"), asked)
    rows = list(csv.DictReader(io.StringIO(response.content.decode())))
    assert len(rows) == 55
    assert list(rows[0]) == ["id", "name", "teacher", "student", "gain", "ratio", "learning_rate"]
    assert rows[0]["name"] == "'=cmd|9"
    assert float(rows[0]["gain"]) == pytest.approx(0.02)
    assert float(rows[0]["ratio"]) == pytest.approx(855_770 / 78_000)
    assert response["Content-Disposition"].startswith("attachment")


# --- Completion ---------------------------------------------------------------------------------------------
def labels(text: str, at: int | None = None) -> list[str]:
    found = complete(Run.objects.all(), text, len(text) if at is None else at)
    return [option["label"] for option in found["options"]]


def test_completion_knows_keys_and_the_values_there_are() -> None:
    run = a_distilled(teacher=make.a_teacher("big one"))
    Series.objects.create(run=run, name="val/top1", best=0.9)
    Tag.objects.create(project=run.project, name="ship").runs.add(run)
    assert labels("stat")[0] == "status"
    assert "lr" in labels("acc>0.9 l")
    assert "kd.temperature" in labels("kd")
    assert "val/top1.best" in labels("val/")
    assert labels("tag:") == ["ship"]
    assert labels("(status:fa") == ["failed"]
    assert labels("optimizer:") == ["sgd"]
    assert labels("seed:") == ["0"]
    found = complete(Run.objects.all(), "-teacher:bi acc>1", 11)
    assert (found["start"], found["end"]) == (9, 11)
    assert found["options"][0]["insert"] == '"big one"'


def test_completion_tells_nothing_of_other_projects(mia: Client) -> None:
    other = Project.objects.create(name="Other", slug="other")
    run = a_distilled(project=other, teacher=make.a_teacher("secret"))
    Tag.objects.create(project=other, name="secret").runs.add(run)
    Series.objects.create(run=run, name="secret/loss")
    for text in ("tag:", "teacher:", "secret", "kd.t"):
        shown = mia.get(reverse("run_complete"), {"q": text, "at": len(text)}).json()["options"]
        assert not any("secret" in option["label"] or "kd." in option["label"] for option in shown)
    assert mia.get(reverse("run_list"), {"q": "secret/loss.last>0"}).text.count("is no metric") == 1


def test_all_that_match_can_be_chosen_up_to_what_is_changed_at_once(mia: Client) -> None:
    keys = {a_distilled(name=f"run {n}", teacher=make.a_teacher(f"t{n}")).pk for n in range(3)}
    a_control()
    found = mia.get(reverse("run_keys"), {"q": "purpose:distil"}).json()
    assert (set(found["keys"]), found["n"]) == (keys, 3)
    assert mia.get(reverse("run_keys"), {"q": "acc>"}).status_code == 400


# --- Saved views --------------------------------------------------------------------------------------------
def test_a_view_is_saved_begun_with_shared_and_deleted(mia: Client) -> None:
    save, here = reverse("view_save"), reverse("run_list")
    mia.post(save, {"name": "Best", "query": "q=acc>0.9&sort=-acc&page=3&columns=name,acc", "first": "on"})
    view = SavedView.objects.get()
    assert view.query == "q=acc%3E0.9&sort=-acc&columns=name,acc"  # not the page
    assert mia.get(here)["Location"] == f"{here}?{view.query}"
    assert ">Best</h1>" in mia.get(f"{here}?{view.query}").text
    assert mia.get(here, {"q": ""}).status_code == 200  # all runs are still there
    noa = browser(a_user("noa"))
    assert "Best" not in noa.get(here).text
    mia.post(reverse("view_change", args=[view.pk]), {"name": "The best", "shared": "on"})
    assert "The best" in noa.get(here).text
    assert mia.get(here).status_code == 200  # not begun with any more
    assert noa.post(reverse("view_change", args=[view.pk]), {"name": "x"}).status_code == 404
    assert noa.post(reverse("view_delete", args=[view.pk])).status_code == 404
    mia.post(reverse("view_delete", args=[view.pk]))
    assert not SavedView.objects.exists()


def test_a_view_is_refused_with_field_and_fix(mia: Client) -> None:
    answer = mia.post(reverse("view_save"), {"name": " ", "query": "q=kd"}, follow=True)
    assert "a view needs a name of 1 to 60 characters" in answer.text
    vic = browser(a_user("vic", Role.VIEWER))
    assert vic.post(reverse("view_save"), {"name": "mine", "query": "q=kd"}).status_code == 302
    assert vic.post(reverse("view_save"), {"name": "all", "query": "q=kd", "shared": "on"}).status_code == 403


def test_only_one_view_is_begun_with(mia: Client) -> None:
    for name in ("one", "two"):
        mia.post(reverse("view_save"), {"name": name, "query": f"q={name}", "first": "on"})
    assert list(SavedView.objects.filter(first=True).values_list("name", flat=True)) == ["two"]
    assert User.objects.get(username="mia").views.count() == 2


def test_terms_of_a_key_are_taken_out_of_a_line() -> None:
    assert query.without('status:failed acc>0.9 "a b"', "status") == 'acc>0.9 "a b"'
    assert query.without("status:a or b", "status") == "status:a or b"
