"""Every chart is a figure that Plotly takes, and says why where it has nothing to draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go
import pytest
from django.utils import timezone

from experiments import charts
from experiments.charts import _parts, pareto
from experiments.models import Attempt, Run, Teacher

from . import make

pytestmark = pytest.mark.django_db
NAMES = (
    "loss/total", "loss/ce", "loss/kd", "weight/ce", "weight/kd", "dial/ctkd/temperature",
    "train/top1", "val/top1", "val/loss", "lr", "throughput", "system/cpu", "system/memory",
    "system/engine_memory", "system/gpu0/utilisation", "system/gpu1/utilisation", "system/gpu0/memory",
    "system/gpu0/temperature", "system/gpu0/power",
)  # fmt: skip
LEARNING = ("objective", "accuracy", "validation-loss")
DEVICE = (
    "throughput", "system-cpu", "system-memory", "gpu-utilisation", "gpu-memory", "gpu-temperature",
    "gpu-power",
)  # fmt: skip
RESULTS = ("per-class", "confusion", "calibration", "compression")


def measured(top1: float, size: float = 1.0, classes: int = 10) -> dict[str, Any]:
    return {
        "top1": top1,
        "per_class": [top1 - 0.001 * i for i in range(classes)],
        "parameters": int(78_000 * size),
        "bytes": int(320_000 * size),
        "flops": int(25e6 * size),
        "latency_p50_ms": 0.9 * size,
    }


def judged(hits: int, classes: int = 10, **values: Any) -> dict[str, Any]:
    """As the engine judges since it looks at confusion and calibration: ten samples a class, `hits` right."""
    rows = [[0] * classes for _ in range(classes)]
    for c, row in enumerate(rows):
        row[c], row[(c + 1) % classes] = hits, 10 - hits
    bins = [None] * 13 + [{"count": 4, "confidence": 0.9, "accuracy": 0.5}]
    bins += [{"count": 12, "confidence": 0.99, "accuracy": 0.97}]
    more = {"score": hits / 10, "confusion": rows, "confused": None, "reliability": bins, "ece": 0.123}
    more |= {
        "map": None,
        "bytes_fp16": 165_000,
        "bytes_int8": 90_000,
        "peak_memory": 9e5,
        "throughput": 1900.0,
    }
    return measured(hits / 10, classes=classes) | more | values


def multi_label(map_: float) -> dict[str, Any]:
    precisions = [map_ + 0.001 * i for i in range(9)] + [None]
    nothing = {"top1": None, "per_class": None, "confusion": None}
    return judged(9) | nothing | {"score": map_, "map": map_, "average_precision": precisions}


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
    found = ended("kd", 0.962, purpose="distil", teacher=teacher, control=control)
    control.results["student"] |= judged(7)
    found.results["student"] |= judged(8)
    found.results["teacher"] |= judged(9, score=0.981)
    return found


def subject(run: Run, names: tuple[str, ...] = NAMES, place: int = 0) -> charts.Subject:
    return charts.Subject(run, tuple(sorted(names)), frozenset(names), _parts.colour(place))


def views(run: Run) -> Iterator[charts.View]:
    assert run.control is not None
    control = subject(run.control, place=1)
    yield charts.View("run", [subject(run)], control=control)
    yield charts.View("compare", [subject(run), control])
    yield charts.View("pictures", [subject(run), control])
    yield charts.View("project", [subject(run), control])


def card(view: charts.View, key: str) -> dict[str, Any]:
    return next(one for one in charts.drawn(view) if one["key"] == key)


def test_the_folder_is_the_list_in_the_order_of_the_page_each_chart_in_its_section() -> None:
    found = list(charts.charts())
    curves = [*LEARNING, "learning-rate", "weights", "temperature", *DEVICE, *RESULTS]
    assert [key for key in found if key in curves] == curves
    sections = {key: str(chart.section) for key, chart in charts.charts().items()}
    assert {sections[key] for key in LEARNING} == {"Learning"}
    assert {sections[key] for key in DEVICE} == {"Speed and device"}
    assert {sections[key] for key in RESULTS} == {"Results"}


def test_every_figure_is_valid(run: Run) -> None:
    drawn = [one for view in views(run) for one in charts.drawn(view)]
    assert {one["key"] for one in drawn} >= set(charts.charts()) - {"parallel", "scatter"}
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


def test_the_weights_have_the_names_and_colours_of_their_terms(run: Run) -> None:
    names = ("loss/total", "loss/bce", "loss/ctkd", "loss/kd", "weight/bce", "weight/ctkd", "weight/kd")
    view = charts.View("run", [subject(run, names)])
    losses = {t["name"]: t["meta"]["color"] for t in card(view, "objective")["figure"]["data"]}
    weights = {t["name"]: t["meta"]["color"] for t in card(view, "weights")["figure"]["data"]}
    assert losses == {"total": "series-1"} | weights
    assert list(weights) == ["binary cross-entropy", "ctkd", "kd"]


def test_the_task_loss_alone_has_no_chart_of_weights(run: Run) -> None:
    view = charts.View("run", [subject(run, ("loss/total", "loss/ce", "weight/ce"))])
    assert not {"weights", "temperature"} & {one["key"] for one in charts.drawn(view)}


def test_what_methods_turn_is_drawn_under_their_name(run: Run) -> None:
    view = charts.View("run", [subject(run, ("dial/ctkd/temperature", "dial/wsld/mean_weight"))])
    figure = card(view, "temperature")["figure"]
    assert [trace["name"] for trace in figure["data"]] == ["ctkd temperature", "wsld mean weight"]
    one = card(charts.View("run", [subject(run)]), "temperature")["figure"]
    assert one["layout"]["yaxis"]["title"]["text"] == "temperature"


def marks(run: Run, key: str = "objective") -> list[tuple[str, int, str, str]]:
    found = card(charts.View("run", [subject(run)]), key)["figure"]["layout"]["meta"]["marks"]
    return [(mark["kind"], mark["step"], mark["before"], mark["text"]) for mark in found]


def test_a_first_stage_is_handed_to_the_page_which_knows_the_axis(run: Run) -> None:
    stages = [
        {"name": "first stage", "first_step": 1, "last_step": 50},
        {"name": "training", "first_step": 51, "last_step": 250},
    ]
    run.results["stages"] = stages
    assert marks(run) == marks(run, "learning-rate") == [("stage", 50, "first stage", "training")]
    run.results["stages"] = stages[1:]  # one stage needs no name
    assert marks(run) == []


def test_while_it_runs_the_plan_says_where_the_first_stage_ends() -> None:
    values: dict[str, Any] = {"training": {"epochs": 4}, "epoch_steps": 25, "total_steps": 150}
    assert marks(make.a_run(status="running", **values)) == [("stage", 50, "first stage", "training")]
    assert marks(make.a_run(status="running", **(values | {"total_steps": 100}))) == []


def test_where_an_attempt_went_on_is_marked_with_its_time(run: Run) -> None:
    for number, step in ((1, 0), (2, 0), (3, 120)):  # the second found no checkpoint and began anew
        Attempt.objects.create(run=run, number=number, worker="w", from_step=step)
    assert marks(run) == [("restart", 120, "", "attempt 3")]
    figure = card(charts.View("run", [subject(run)]), "system-cpu")["figure"]
    assert figure["layout"]["meta"]["marks"][0]["wall"] == pytest.approx(timezone.now().timestamp(), abs=60)
    compared = card(charts.View("compare", [subject(run)]), "objective")["figure"]
    assert compared["layout"]["meta"]["marks"] == []


def test_device_charts_are_over_time_and_absent_where_nothing_is_measured(run: Run) -> None:
    figure = card(charts.View("run", [subject(run)]), "gpu-utilisation")["figure"]
    assert [trace["name"] for trace in figure["data"]] == ["GPU 0", "GPU 1"]
    assert figure["layout"]["meta"]["time"] is True
    keys = {one["key"] for one in charts.drawn(charts.View("run", [subject(run, ("lr",))]))}
    assert keys.isdisjoint(DEVICE[1:])


def test_what_no_file_draws_has_a_chart_in_a_section_of_its_prefix(run: Run) -> None:
    names = (*NAMES, "grad/norm", "grad/max", "spare")
    view = charts.View("run", [subject(run, names)])
    others = [one for one in charts.drawn(view) if one["key"].startswith("series:")]
    assert [(one["title"], one["section"]) for one in others] == [
        ("grad/max", "grad"), ("grad/norm", "grad"), ("spare", "Other series"),
    ]  # fmt: skip
    compared = charts.drawn(charts.View("compare", [subject(run, names)]))
    shown = {
        trace["meta"]["series"]
        for one in compared
        if one["kind"] == "curves"
        for trace in one["figure"]["data"]
    }
    assert shown == set(names)  # the terms of the objective as well: nothing is hidden


def test_several_teachers_together_have_a_line_of_their_own(run: Run) -> None:
    run.results["ensemble"] = measured(0.985)
    layout = card(charts.View("run", [subject(run)]), "accuracy")["figure"]["layout"]
    assert "Teachers together 98.50 %" in [note["text"] for note in layout["annotations"]]


def test_all_terms_of_any_method_are_drawn_the_total_in_front(run: Run) -> None:
    view = charts.View("run", [subject(run, (*NAMES, "loss/fitnet"))])
    traces = card(view, "objective")["figure"]["data"]
    assert [trace["name"] for trace in traces] == ["total", "cross-entropy", "fitnet", "kd"]
    assert [trace["zorder"] for trace in traces] == [1, 0, 0, 0]
    assert charts.claims("loss/a-method-of-tomorrow")
    assert not charts.claims("gpu/memory")


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


def test_compression_is_teacher_over_student() -> None:
    old = ended("old", 0.9, purpose="distil", teacher=make.a_teacher(metrics=measured(0.981, 12.0)))
    trace = card(charts.View("run", [subject(old)]), "compression")["figure"]["data"][0]
    assert trace["x"] == pytest.approx([12.0] * 4)
    assert trace["text"] == ["12×"] * 4


def test_what_is_measured_since_is_drawn_and_more_throughput_is_better(run: Run) -> None:
    run.results["teacher"] |= {"bytes_int8": 900_000, "throughput": 190.0}
    trace = card(next(views(run)), "compression")["figure"]["data"][0]
    ratios = dict(zip(trace["y"], trace["x"], strict=True))
    assert ratios["Size as int8"] == pytest.approx(10)
    assert ratios["Throughput"] == pytest.approx(10)


# --- Confusion and calibration ----------------------------------------------------------------------------
def test_the_confusion_is_coloured_by_shares_and_says_what_the_teacher_does(run: Run) -> None:
    trace = card(next(views(run)), "confusion")["figure"]["data"][0]
    assert trace["z"][3][3] == pytest.approx(0.8**0.5, abs=1e-4)
    assert trace["text"][3][3:5] == [8, 2]
    assert trace["text"][3][5] == ""
    assert trace["customdata"][3][3] == "8 of 10 (80.0\u202f%)<br>teacher 9 (\u22121)"
    assert trace["customdata"][3][4] == "2 of 10 (20.0\u202f%)<br>teacher 1 (+1)"
    assert trace["customdata"][3][5] == "0 of 10 (0.0\u202f%)<br>teacher 0 (the same)"


def test_of_many_classes_those_confused_most_are_shown(run: Run) -> None:
    student = judged(9, classes=100)
    student["confusion"][41][41], student["confusion"][41][70] = 4, 5
    run.results = {"student": student, "teacher": judged(9)}  # the teacher knows other classes
    figure = card(charts.View("run", [subject(run)]), "confusion")["figure"]
    trace = figure["data"][0]
    assert len(trace["x"]) == len(trace["z"]) == 30
    assert {"41", "70"} <= set(trace["x"])
    assert "teacher" not in trace["customdata"][0][0]
    assert "30 of 100" in figure["layout"]["xaxis"]["title"]["text"]


def test_of_too_many_classes_the_pairs_confused_most_are_bars(run: Run) -> None:
    run.dataset.classes = [f"c{i}" for i in range(300)]
    run.results["student"] |= {"confusion": None, "confused": [[7, 8, 30], [299, 0, 2]]}
    figure = card(charts.View("run", [subject(run)]), "confusion")["figure"]
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([30, 2], ["c7 → c8", "c299 → c0"])
    go.Figure(figure)


def test_the_reliability_of_all_three_networks_stands_beside_their_errors(run: Run) -> None:
    traces = card(next(views(run)), "calibration")["figure"]["data"]
    assert [trace["name"] for trace in traces] == [
        f"{who}, ECE 12.3\u202f%" for who in ("Teacher", "Control", "Student")
    ]
    assert [(trace["x"], trace["y"]) for trace in traces] == [([0.9, 0.99], [0.5, 0.97])] * 3
    assert traces[0]["marker"]["size"] == [10.0, pytest.approx(14.4)]


def test_results_of_an_earlier_version_have_no_confusion_and_no_calibration() -> None:
    keys = [one["key"] for one in charts.drawn(charts.View("run", [subject(ended("old", 0.9))]))]
    assert "per-class" in keys
    assert {"confusion", "calibration"}.isdisjoint(keys)


# --- Multi-label ------------------------------------------------------------------------------------------
def test_on_multi_label_data_the_charts_speak_of_map_and_average_precision(run: Run) -> None:
    run.dataset.info = {"task": "multi-label"}
    run.results = {"student": multi_label(0.7), "teacher": multi_label(0.8)}
    view = charts.View("run", [subject(run, ("val/map", "val/f1", "train/f1", "val/loss", "loss/bce"))])
    found = {one["key"]: one["figure"] for one in charts.drawn(view)}
    for figure in found.values():
        go.Figure(figure) if figure else None
    assert "confusion" not in found
    assert card(view, "accuracy")["title"] == "mAP"
    assert found["accuracy"]["layout"]["yaxis"]["title"]["text"] == "mAP"
    assert [t["meta"]["series"] for t in found["accuracy"]["data"]] == ["val/map", "val/f1", "train/f1"]
    assert found["accuracy"]["layout"]["shapes"][0]["y0"] == 0.8
    assert found["per-class"]["layout"]["yaxis"]["title"]["text"] == "average precision"
    assert found["per-class"]["data"][1]["y"] == multi_label(0.7)["average_precision"]
    assert found["calibration"]["layout"]["xaxis"]["title"]["text"] == "predicted probability"
    pareto_view = charts.View("project", [subject(run)])
    assert card(pareto_view, "pareto")["figure"]["layout"]["yaxis"]["title"]["text"] == "mAP on digits"


def test_a_class_without_samples_is_shown_last_and_breaks_nothing(run: Run) -> None:
    run.results = {"student": measured(0.9, classes=100)}
    run.results["student"]["per_class"][99] = None
    figure = card(charts.View("run", [subject(run)]), "per-class")["figure"]
    assert figure["data"][0]["x"][0] == "98"
    run.results["teacher"] = measured(0.95, classes=100)
    figure = card(charts.View("run", [subject(run)]), "per-class")["figure"]
    assert "99" not in figure["data"][0]["x"]
