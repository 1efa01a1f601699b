"""The pictures of a comparison, and curves as means over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from django.test import Client

from experiments import metric_store
from experiments.charts import _seeds, parallel
from experiments.comparison_axes import Axis
from experiments.models import Project, Run

from . import make
from .people import a_user, browser
from .test_compare import ended

pytestmark = pytest.mark.django_db


@pytest.fixture
def mia() -> Client:
    return browser(a_user("mia"))


def picture(client: Client, chart: str, runs: list[Run], **query: object) -> dict[str, Any]:
    ids = ",".join(str(run.pk) for run in runs)
    answer = client.get(f"/api/compare/pictures/{chart}", {"runs": ids} | query)
    assert answer.status_code == 200, answer.content
    (card,) = answer.json()["charts"]
    if card["figure"]:
        go.Figure(card["figure"])  # refuses what Plotly does not know
    return dict(card)


def recorded(run: Run, name: str, steps: list[int], values: list[float | None]) -> None:
    Run.objects.filter(pk=run.pk).update(status="running", fence=1)
    metric_store.append(run.pk, 1, {name: metric_store.points(steps, values, map(float, steps))})


# --- Scatter ----------------------------------------------------------------------------------------------
def test_a_point_is_a_run_in_its_colour_and_opens_it(mia: Client) -> None:
    runs = [ended("a", 0.9, temperature=2.0), ended("b", 0.95, temperature=8.0)]
    figure = picture(mia, "scatter", runs, x="kd temperature", y="accuracy", logx="1")["figure"]
    assert [(t["x"], t["y"]) for t in figure["data"]] == [([2.0], [0.9]), ([8.0], [0.95])]
    for trace, run in zip(figure["data"], runs, strict=True):
        assert trace["meta"] == {"color": run.colour, "opens": "runs", "run": run.pk}
        assert trace["customdata"] == [run.pk]
    layout = figure["layout"]
    assert (layout["xaxis"]["type"], layout["xaxis"]["title"]["text"]) == ("log", "kd temperature")
    assert layout["yaxis"]["title"]["text"] == "Accuracy"


def test_words_stand_side_by_side_and_an_unknown_value_is_the_default(mia: Client) -> None:
    runs = [ended("a", 0.9), ended("b", 0.95, dataset=make.a_dataset("letters"))]
    figure = picture(mia, "scatter", runs, x="dataset", y="nonsense", logx="1")["figure"]
    assert figure["layout"]["xaxis"]["type"] == "category"
    assert [trace["x"] for trace in figure["data"]] == [["digits"], ["letters"]]
    assert figure["layout"]["yaxis"]["title"]["text"] == "Accuracy"


def test_a_group_of_seeds_is_a_point_with_its_deviation(mia: Client) -> None:
    runs = [ended(f"s{seed}", 0.9 + seed / 100, seed) for seed in range(3)]
    (trace,) = picture(mia, "scatter", runs, seeds="1")["figure"]["data"]
    assert trace["y"] == [pytest.approx(0.91)]
    assert trace["error_y"]["array"] == [pytest.approx(0.01)]
    assert "error_x" not in trace  # the parameters are the same in all


# --- Parallel coordinates -----------------------------------------------------------------------------------
def test_a_line_goes_through_what_differs_to_the_accuracy(mia: Client) -> None:
    runs = [
        ended("a", 0.9, temperature=2.0),
        ended("b", 0.95, temperature=8.0),
        ended("c", 0.92, temperature=4.0),
    ]
    figure = picture(mia, "parallel", runs)["figure"]
    assert figure["layout"]["xaxis"]["ticktext"] == ["kd temperature", "Accuracy"]
    heights = {trace["name"]: trace["y"] for trace in figure["data"]}
    assert heights == {"a": [0, 0], "b": [1, 1], "c": [pytest.approx(1 / 3), pytest.approx(0.4)]}
    colours = {trace["name"]: trace["meta"]["color"] for trace in figure["data"]}
    assert colours == {"a": "scale-1", "b": "scale-9", "c": "scale-4"}


def test_an_axis_is_logarithmic_where_its_values_span_orders_of_magnitude() -> None:
    heights = parallel.Heights(Axis("lr", "lr", [1e-4, 1e-3, 1e-2, None]))
    assert [heights.of(value) for value in (1e-4, 1e-3, 1e-2, None)] == pytest.approx([0, 0.5, 1, None])
    assert parallel.Heights(Axis("m", "m", ["kd", "at"])).of("at") == 0.0


def test_words_that_part_the_runs_as_others_do_get_no_axis_of_their_own() -> None:
    student = Axis("student", "student", ["tiny", "tiny", "big"])
    network = Axis("architecture", "architecture", ["r8", "r8", "r20"])
    assert parallel.telling([student, network, Axis("t", "t", [1.0, 1.0, 2.0])])[0] is student
    assert len(parallel.telling([student, network])) == 1


def test_without_results_a_sentence_stands_there(mia: Client) -> None:
    runs = [make.a_run(status="queued"), make.a_run(status="queued")]
    for chart in ("scatter", "parallel", "pareto"):
        assert picture(mia, chart, runs)["empty"].endswith(".")


# --- Pareto -------------------------------------------------------------------------------------------------
def test_dominated_models_are_faint_and_each_mark_has_its_run_s_colour(mia: Client) -> None:
    runs = [ended("front", 0.9), ended("beaten", 0.8, seed=1, parameters=100_000)]
    data = picture(mia, "pareto", runs)["figure"]["data"]
    marks = {trace["name"]: trace for trace in data if trace["mode"] == "markers"}
    assert marks["front"]["marker"]["opacity"] == [1.0]
    assert marks["beaten"]["marker"]["opacity"][0] < 0.5
    assert marks["beaten"]["meta"] == {"color": runs[1].colour, "opens": "runs", "run": runs[1].pk}


def test_the_limit_is_drawn_in_the_project_s_chart(mia: Client) -> None:
    ended("a", 0.9)
    figure = mia.get("/api/pareto?under=100k").json()["charts"][0]["figure"]
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [100_000.0]
    refused = mia.get("/api/pareto?under=many")
    assert (refused.status_code, "500k" in refused.json()["detail"]) == (400, True)
    other = make.a_dataset("elsewhere")
    other.project = Project.objects.create(name="Other", slug="other")
    other.save()
    assert mia.get(f"/api/pareto?dataset={other.pk}").status_code == 404


def test_archived_models_are_not_in_the_project_s_chart(mia: Client) -> None:
    ended("kept", 0.9)
    ended("gone", 0.99, shelf="trash")
    (trace,) = mia.get("/api/pareto").json()["charts"][0]["figure"]["data"]
    assert trace["text"] == ["kept"]


# --- Means over seeds ---------------------------------------------------------------------------------------
def test_curves_of_seeds_are_a_mean_between_the_least_and_the_greatest(mia: Client) -> None:
    runs = [ended(f"s{seed}", 0.9, seed) for seed in range(2)]
    recorded(runs[0], "val/top1", [1, 2, 3], [0.1, 0.2, None])
    recorded(runs[1], "val/top1", [1, 3], [0.3, 0.5])
    ids = ",".join(str(run.pk) for run in runs)
    cards = mia.get(f"/api/compare/charts?runs={ids}&seeds=1").json()["charts"]
    card = next(card for card in cards if card["key"] == "accuracy")
    low, high, mean = card["figure"]["data"]
    assert card["kind"] == "picture"
    assert mean["x"] == [1, 2, 3]
    assert mean["y"] == pytest.approx([0.2, 0.3, 0.5])  # the first has no number at step 3
    assert low["y"] == pytest.approx([0.1, 0.2, 0.5])
    assert high["y"] == pytest.approx([0.3, 0.4, 0.5])
    assert (high["fill"], mean["meta"]["run"]) == ("tonexty", runs[0].pk)
    deviating = mia.get(f"/api/compare/charts?runs={ids}&seeds=1&band=std").json()["charts"]
    low = next(card for card in deviating if card["key"] == "accuracy")["figure"]["data"][0]
    assert low["y"][0] == pytest.approx(0.2 - np.std([0.1, 0.3], ddof=1))


def test_a_spike_of_one_step_is_in_the_band_of_long_curves() -> None:
    step = np.arange(1, 20_001)
    curves = []
    for seed in range(3):
        value = np.random.default_rng(seed).normal(1, 0.01, len(step))
        value[12_345 + seed] = 50.0 - seed
        curves.append(metric_store.Points(step, value, step.astype(float)))
    rows = _seeds.Rows.of(curves)
    low, mean, high = rows.spread("minmax")
    assert len(high) <= _seeds.WIDTH
    assert max(high) == 50.0
    assert np.median(mean) == pytest.approx(1, abs=0.01)
    assert min(low) == pytest.approx(min(curve.value.min() for curve in curves))


def test_all_series_of_many_runs_come_in_few_statements(
    mia: Client, django_assert_max_num_queries: Any
) -> None:
    runs = [ended(f"r{n}", 0.9, n) for n in range(12)]
    for run in runs:
        for name in ("val/top1", "loss/total", "val/loss"):
            recorded(run, name, [1, 2], [0.5, 0.6])
    ids = ",".join(str(run.pk) for run in runs)
    with django_assert_max_num_queries(12):
        answer = mia.get(f"/api/compare/series?runs={ids}&name=val/top1,loss/total,val/loss")
    found = answer.json()["runs"]
    assert len(found) == 12
    assert all(set(one["series"]) == {"val/top1", "loss/total", "val/loss"} for one in found.values())
    with django_assert_max_num_queries(25):
        assert mia.get(f"/api/compare/charts?runs={ids}&seeds=1").status_code == 200
