"""Every chart is a figure that Plotly takes, and says why where it has nothing to draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go
import pytest
from django.utils import timezone

from experiments import charts
from experiments.charts import _parts, pareto
from experiments.models import Run, Teacher

from . import make

pytestmark = pytest.mark.django_db
NAMES = (
    "loss/total", "loss/ce", "loss/kd", "weight/kd", "train/top1", "val/top1", "val/loss", "lr", "throughput",
)  # fmt: skip
KEYS = "objective accuracy validation-loss learning-rate weights throughput per-class compression pareto"


def measured(top1: float, size: float = 1.0, classes: int = 10) -> dict[str, Any]:
    return {
        "top1": top1,
        "per_class": [top1 - 0.001 * i for i in range(classes)],
        "parameters": int(78_000 * size),
        "bytes": int(320_000 * size),
        "flops": int(25e6 * size),
        "latency_p50_ms": 0.9 * size,
    }


@pytest.fixture
def teacher() -> Teacher:
    return make.a_teacher(metrics=measured(0.981, 12.0))


def ended(name: str, top1: float, **values: Any) -> Run:
    results = {"student": measured(top1), "teacher": measured(0.981, 12.0) if values.get("teacher") else None}
    numbers = {
        "accuracy": top1,
        "parameters": 78_000,
        "bytes": 320_000,
        "flops": 25_000_000,
        "latency_ms": 0.9,
    }
    return make.a_run(
        name=name, status="succeeded", results=results, finished=timezone.now(), **(numbers | values)
    )


@pytest.fixture
def run(teacher: Teacher) -> Run:
    control = ended("alone", 0.94)
    return ended("kd", 0.962, purpose="distil", teacher=teacher, control=control)


def subject(run: Run, names: tuple[str, ...] = NAMES, place: int = 0) -> charts.Subject:
    return charts.Subject(run, tuple(sorted(names)), frozenset(names), _parts.colour(place))


def views(run: Run) -> Iterator[charts.View]:
    assert run.control is not None
    control = subject(run.control, place=1)
    yield charts.View("run", [subject(run)], control=control)
    yield charts.View("compare", [subject(run), control])
    yield charts.View("project", [subject(run), control])


def card(view: charts.View, key: str) -> dict[str, Any]:
    return next(one for one in charts.drawn(view) if one["key"] == key)


def test_the_folder_is_the_list_in_the_order_of_the_page() -> None:
    assert list(charts.charts()) == KEYS.split()


def test_every_figure_is_valid(run: Run) -> None:
    drawn = [one for view in views(run) for one in charts.drawn(view)]
    assert {one["key"] for one in drawn} == set(KEYS.split())
    for one in drawn:
        assert one["figure"], one
        go.Figure(one["figure"])  # refuses names and values that Plotly does not know


def test_every_axis_has_a_title_and_every_curve_says_what_it_shows(run: Run) -> None:
    for view in views(run):
        for one in charts.drawn(view):
            layout = one["figure"]["layout"]
            assert layout["xaxis"]["title"]["text"]
            assert layout["yaxis"]["title"]["text"] or one["key"] == "compression"
            if one["kind"] == "curves":
                assert all(
                    {"run", "series", "color"} <= trace["meta"].keys() for trace in one["figure"]["data"]
                )


def test_without_points_a_sentence_stands_in_place_of_empty_axes() -> None:
    waiting = make.a_run(status="queued")
    for scope in ("run", "compare", "project"):
        for one in charts.drawn(charts.View(scope, [subject(waiting, ())])):
            assert one["figure"] is None
            assert one["empty"].endswith(".")


def test_the_accuracy_chart_carries_the_teachers_and_the_controls_line(run: Run) -> None:
    layout = card(next(views(run)), "accuracy")["figure"]["layout"]
    assert {(shape["name"], shape["y0"]) for shape in layout["shapes"]} == {
        ("teacher", 0.981),
        ("control", 0.94),
    }
    assert [note["text"] for note in layout["annotations"]] == [
        "Teacher 98.10\u202f%",
        "Control 94.00\u202f%",
    ]
    assert [note["yanchor"] for note in layout["annotations"]] == ["bottom", "top"]  # they never meet
    assert set(layout["yaxis"]["autorangeoptions"]["include"]) == {0.981, 0.94}


def test_a_control_that_still_runs_has_a_curve_but_no_final_line(run: Run) -> None:
    assert run.control is not None
    run.control.status = Run.Status.RUNNING
    figure = card(next(views(run)), "accuracy")["figure"]
    assert [shape["name"] for shape in figure["layout"]["shapes"]] == ["teacher"]
    assert figure["data"][-1]["meta"] == {"run": run.control.pk, "series": "val/top1", "color": "control"}


def test_compared_runs_with_different_teachers_get_no_line(run: Run) -> None:
    other = ended("other", 0.95, purpose="distil", teacher=make.a_teacher("another", metrics=measured(0.97)))
    view = charts.View("compare", [subject(run), subject(other, place=1)])
    assert card(view, "accuracy")["figure"]["layout"]["shapes"] == []
    assert [t["meta"]["color"] for t in card(view, "accuracy")["figure"]["data"]] == ["series-1", "series-2"]


def test_constant_weights_are_not_drawn(run: Run) -> None:
    view = charts.View("run", [charts.Subject(run, NAMES, frozenset())])
    assert "weights" not in [one["key"] for one in charts.drawn(view)]


def test_all_terms_of_any_method_are_drawn_the_total_in_front(run: Run) -> None:
    view = charts.View("run", [subject(run, (*NAMES, "loss/fitnet"))])
    traces = card(view, "objective")["figure"]["data"]
    assert [trace["name"] for trace in traces] == ["total", "cross-entropy", "fitnet", "kd"]
    assert [trace["zorder"] for trace in traces] == [1, 0, 0, 0]
    assert charts.wants("loss/a-method-of-tomorrow")
    assert not charts.wants("gpu/memory")


def test_many_classes_are_cut_to_those_that_matter_and_say_so(run: Run) -> None:
    run.results = {"student": measured(0.9, classes=100), "teacher": measured(0.98, classes=100)}
    run.results["student"]["per_class"][42] = 0.1
    figure = card(charts.View("run", [subject(run)]), "per-class")["figure"]
    teacher, student = figure["data"]
    assert student["x"][0] == teacher["x"][0] == "42"
    assert len(student["x"]) == 20
    assert "20 of 100 classes" in figure["layout"]["xaxis"]["title"]["text"]


def test_the_pareto_front_is_what_nothing_smaller_equals() -> None:
    points = [(10.0, 0.9, "a", 1), (20.0, 0.89, "b", 2), (30.0, 0.95, "c", 3), (30.0, 0.93, "d", 4)]
    assert [point[2] for point in pareto.front_of(points)] == ["a", "c"]


@pytest.mark.parametrize("cost", list(pareto.COSTS))
def test_the_pareto_chart_shows_students_controls_and_teachers(run: Run, cost: str) -> None:
    assert run.control is not None
    subjects = [subject(run), subject(run.control)]
    traces = card(charts.View("project", subjects, options={"x": cost}), "pareto")["figure"]["data"]
    assert {trace["name"] for trace in traces} == {"Controls", "Students", "Teachers"}
    assert next(t for t in traces if t["name"] == "Students")["customdata"] == [run.pk]


def test_compression_is_teacher_over_student(run: Run) -> None:
    trace = card(next(views(run)), "compression")["figure"]["data"][0]
    assert trace["x"] == pytest.approx([12.0] * 4)
    assert trace["text"] == ["12×"] * 4
