"""Comparing runs in Chromium, and the way from the log-in to the best student under a limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.site import PASSWORD, Site, Tab, running

pytestmark = [pytest.mark.server, pytest.mark.browser]
ROWS = f"""
from django.contrib.auth.models import User
from django.utils import timezone
from experiments import metric_store
from experiments.models import Run
from tests.experiments import make
ana = User.objects.create_superuser("ana", password={PASSWORD!r})
teacher = make.a_teacher("ResNet-56", metrics={{"score": 0.981, "top1": 0.981, "parameters": 967_000}})
def run(name, accuracy, parameters, temperature, seed=0):
    term = {{"method": "kd", "weight": 0.9, "params": {{"temperature": temperature}}}}
    student = {{"score": accuracy, "top1": accuracy, "parameters": parameters}}
    made = make.a_run(
        name=name, purpose="distil", teacher=teacher, owner=ana, method_keys="kd", accuracy=accuracy,
        parameters=parameters, bytes=4 * parameters, latency_ms=parameters / 1e5, finished=timezone.now(),
        objective={{"task_weight": 0.1, "label_smoothing": 0.0, "terms": [term]}},
        training={{"epochs": 20, "batch_size": 64, "seed": seed}},
        results={{"student": student, "teacher": {{"score": 0.981, "parameters": 967_000}}}},
        status="running", fence=1)
    steps = list(range(1, 21))
    metric_store.append(made.pk, 1, {{"val/top1": metric_store.points(
        steps, [accuracy * (1 - 0.5 ** s) for s in steps], map(float, steps))}})
    Run.objects.filter(pk=made.pk).update(status="succeeded")
    return made
runs = [run("small", 0.90, 78_000, 2.0), run("middle", 0.95, 272_000, 4.0),
        run("large", 0.97, 2_300_000, 8.0), run("large again", 0.96, 2_300_000, 8.0, seed=1)]
print(runs[0].pk, runs[-1].pk)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory, ROWS) as site:
        yield site


@pytest.fixture(scope="module")
def tab(browser: Any, site: Site) -> Iterator[Tab]:
    opened = Tab(browser, site)
    yield opened
    opened.context.close()
    assert opened.complaints == []


@pytest.fixture
def runs(site: Site) -> list[int]:
    first, last = site.pairs[0]
    return list(range(first, last + 1))


def compared(tab: Tab, runs: list[int], **more: str) -> None:
    query = "".join(f"&{name}={value}" for name, value in more.items())
    tab.open(f"/compare/?ids={','.join(map(str, runs))}{query}")


def until_traces(tab: Tab, chart: str, names: set[str]) -> None:
    script = f"""(() => {{
        const plot = document.querySelector('[data-chart="{chart}"] .chart-plot');
        plot?.scrollIntoView({{ block: "center" }});
        const beside = ["Pareto front", "Teachers"];
        const found = (plot?.data ?? []).map((one) => one.name).filter((name) => !beside.includes(name));
        return found.length === {len(names)} && {sorted(names)!r}.every((name) => found.includes(name));
    }})()"""
    tab.until(script)


def test_the_best_student_under_a_limit_is_three_clicks_from_the_log_in(tab: Tab, runs: list[int]) -> None:
    assert tab.page.url == f"{tab.site.url}/"  # where the log-in has led, in the first test of this file
    tab.page.get_by_role(
        "link", name="≤ 280"
    ).first.click()  # the first click; a half of the students is below
    expect(tab.page.get_by_role("heading", name="Best students up to 280")).to_be_visible()
    assert "under=280" in tab.page.url
    best = tab.page.locator("#frontier tbody tr td.name a")
    expect(best).to_have_text(["middle", "small"])
    lines = "document.querySelector('[data-chart=\"pareto\"] .chart-plot')?.layout?.shapes"
    tab.until(f"{lines}?.some((one) => one.x0 === 280000)")  # the chart below draws it
    best.first.click()  # the second
    tab.page.wait_for_url(f"**/runs/{runs[1]}/")


def test_an_eye_hides_its_run_in_every_chart_and_the_address_remembers(tab: Tab, runs: list[int]) -> None:
    compared(tab, runs)
    everything = {"small", "middle", "large", "large again"}
    for chart in ("accuracy", "scatter", "pareto", "parallel"):
        until_traces(tab, chart, everything)
    tab.page.get_by_role("button", name="Show middle in the charts").click()
    for chart in ("accuracy", "scatter", "pareto", "parallel"):
        until_traces(tab, chart, everything - {"middle"})
    assert f"hide={runs[1]}" in tab.page.url
    tab.page.reload()
    until_traces(tab, "accuracy", everything - {"middle"})
    eye = tab.page.get_by_role("button", name="Show middle in the charts")
    expect(eye).to_have_attribute("aria-pressed", "false")
    tab.page.locator(f"li[data-run='{runs[0]}']").hover()
    tab.page.get_by_role("button", name="Show only small").click()
    until_traces(tab, "accuracy", {"small"})
    tab.page.get_by_role("button", name="Show all").click()
    until_traces(tab, "accuracy", everything)
    assert "hide=" not in tab.page.url


def test_pointing_at_a_run_lets_the_others_fade(tab: Tab, runs: list[int]) -> None:
    compared(tab, runs)
    until_traces(tab, "scatter", {"small", "middle", "large", "large again"})
    tab.page.locator(f"li[data-run='{runs[0]}'] a").first.hover()
    bright = """(() => {
        const plot = document.querySelector('[data-chart="scatter"] .chart-plot');
        const opacity = (trace) => plot.querySelector(`.trace${trace.uid}`).style.opacity;
        return plot._fullData.filter((trace) => opacity(trace) !== "0.1").map((trace) => trace.name);
    })()"""
    tab.until(f"JSON.stringify({bright}) === '[\"small\"]'")


def test_only_what_differs_and_a_search(tab: Tab, runs: list[int]) -> None:
    compared(tab, runs)
    rows = tab.page.locator("table.config tbody tr:visible th")
    expect(rows).to_have_text(["Kd temperature", "Seed"])
    tab.page.get_by_role("link", name="Everything").click()
    expect(rows.filter(has_text="Batch size")).to_be_visible()
    assert "all=1" in tab.page.url
    tab.page.get_by_label("Find a setting by its name or value").fill("temperature")
    expect(rows).to_have_text(["Kd temperature"])


def test_heads_sort_the_results_the_better_end_first(tab: Tab, runs: list[int]) -> None:
    compared(tab, runs)
    names = tab.page.locator("table[data-sortable] tbody td.name a")
    head = tab.page.locator("table[data-sortable] th", has_text="Accuracy")
    head.get_by_role("button").click()
    expect(names).to_have_text(["large", "large again", "middle", "small"])
    expect(head).to_have_attribute("aria-sort", "descending")
    head.get_by_role("button").click()
    expect(names).to_have_text(["small", "middle", "large again", "large"])


def test_any_two_values_can_be_chosen_as_axes(tab: Tab, runs: list[int]) -> None:
    compared(tab, runs)
    until_traces(tab, "scatter", {"small", "middle", "large", "large again"})
    tab.page.get_by_label("Across").select_option("kd temperature")
    place = """(() => {
        const plot = document.querySelector('[data-chart="scatter"] .chart-plot');
        const axis = plot?.layout?.xaxis;
        return JSON.stringify([axis?.title?.text, axis?.type, (plot?.data ?? []).map((one) => one.x[0])]);
    })()"""
    tab.until(f'{place} === \'["kd temperature","linear",[2,4,8,8]]\'')
    tab.page.locator("[data-picture=scatter] [name=logx]").check()
    tab.until(f'{place} === \'["kd temperature","log",[2,4,8,8]]\'')
    assert "x=kd+temperature" in tab.page.url
    assert "logx=1" in tab.page.url
    tab.page.reload()
    tab.until(f'{place} === \'["kd temperature","log",[2,4,8,8]]\'')


def test_a_click_on_a_point_of_the_pareto_chart_opens_its_run(tab: Tab, runs: list[int]) -> None:
    compared(tab, runs)
    until_traces(tab, "pareto", {"small", "middle", "large", "large again"})
    place = tab.page.evaluate("""(() => {
        const plot = document.querySelector('[data-chart="pareto"] .chart-plot');
        plot.scrollIntoView({ block: "center" });
        const trace = plot._fullData.find((one) => one.name === "middle");
        const box = plot.querySelector(`.trace${trace.uid} .point`).getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    })()""")
    tab.page.mouse.move(*place)
    tab.until("Boolean(document.querySelector('[data-chart=\"pareto\"] .hoverlayer .hovertext'))")
    tab.page.mouse.click(*place)
    tab.page.wait_for_url(f"**/runs/{runs[1]}/")


def test_seeds_become_one_curve_and_one_row(tab: Tab, runs: list[int]) -> None:
    compared(tab, runs)
    tab.page.get_by_role("link", name="mean ± std").click()
    names = tab.page.locator("table[data-sortable] tbody td.name a")
    expect(names).to_have_text(["small", "middle", "large"])
    until_traces(tab, "scatter", {"small", "middle", "large"})
    script = """(() => { const plot = document.querySelector('[data-chart="accuracy"] .chart-plot');
        plot?.scrollIntoView({ block: "center" });
        return (plot?.data ?? []).filter((one) => one.name === "large ×2").length; })()"""
    tab.until(f"{script} === 3")  # two edges of the band, and the mean


def test_a_limit_can_be_typed_for_any_cost(tab: Tab) -> None:
    tab.open("/")
    tab.page.get_by_role("link", name="Size", exact=True).click()
    tab.until("new URL(location.href).searchParams.get('cost') === 'bytes'")
    tab.page.get_by_label("Best student under").fill("1.2 MB")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("#frontier tbody td.name a")).to_have_text(["middle", "small"])
    tab.page.get_by_label("Best student under").fill("small")
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_text("is no limit for this")).to_be_visible()
