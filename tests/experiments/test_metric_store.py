"""Curves: what goes in comes out, at any length and any zoom."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import chunks, metric_reader, metric_store, odd
from experiments.metric_store import CHUNK, Fenced, Points
from experiments.models import MetricChunk, Run, Series

from .make import a_running_run

pytestmark = pytest.mark.django_db


def curve(values: np.ndarray, first_step: int = 1, stride: int = 1) -> Points:
    steps = first_step + stride * np.arange(len(values), dtype=np.int64)
    return Points(steps, np.asarray(values, np.float64), 1.7e9 + 0.01 * steps)


def stored(values: np.ndarray, block: int | None = None, run: Run | None = None, stride: int = 1) -> Series:
    """The values as a series, appended in blocks."""
    run = run or a_running_run()
    whole = curve(values, stride=stride)
    for begin in range(0, len(values), block or len(values)):
        part = whole.take(slice(begin, begin + (block or len(values))))
        metric_store.append(run.pk, run.fence, {"loss/total": part})
    return Series.objects.get(run=run, name="loss/total")


def everything(series: Series) -> Points:
    return Points(*map(np.concatenate, zip(*metric_store.export(series), strict=True)))


def brute_extremes(values: np.ndarray, begin: int, end: int, size: int) -> Iterator[int]:
    """Places of each bucket's first minimum and first maximum, said as plainly as possible."""
    for number in range(begin // size, (end - 1) // size + 1):
        places = range(max(begin, number * size), min(end, (number + 1) * size))
        finite = [place for place in places if not math.isnan(values[place])]
        if finite:
            low = min(finite, key=lambda place: (values[place], place))
            high = max(finite, key=lambda place: (values[place], -place))
            yield from sorted({low, high})
        else:
            yield places[0]


def test_points_come_back_exactly_however_they_were_sent():
    values = np.random.default_rng(0).normal(size=10_000)
    for block in (1_000, 4_095, 4_096, 4_097, 10_000):
        run = a_running_run(name=f"blocks of {block}")
        assert np.array_equal(everything(stored(values, block, run)).value, values)


def test_wall_times_and_steps_with_gaps_come_back():
    series = stored(np.arange(5_000.0), stride=391)
    found = everything(series)
    assert found.step.tolist() == list(range(1, 5_000 * 391, 391))
    assert np.array_equal(found.wall, 1.7e9 + 0.01 * found.step)


@pytest.fixture(scope="module")
def a_million() -> np.ndarray:
    values = np.random.default_rng(1).normal(size=1_000_000)
    values[654_321] = 1e6
    return values


def test_one_spike_in_a_million_points_shows_at_every_zoom_and_width(a_million):
    series = stored(a_million, block=100_000)
    spike = 654_322  # its step
    for window in (1_000_000, 500_000, 100_003, 20_000, 4_096, 777, 3):
        for before in (0, window // 3, window - 1):
            first = max(1, spike - before)
            last = min(1_000_000, first + window - 1)
            for width in (1, 10, 333, 1_000, 2_000):
                shown = metric_store.read(series, first, last, width)
                assert spike in shown.step
                assert len(shown.step) <= 2 * width + 2
                assert first <= shown.step[0] <= shown.step[-1] <= last


def test_an_envelope_equals_the_one_made_from_all_points(a_million):
    values = a_million[:300_000].copy()
    values[50_000:60_000] = np.nan
    series = stored(values, block=70_001)
    for begin, end, width in (
        (0, 300_000, 100),
        (12_345, 287_654, 10),
        (49_000, 61_000, 700),
        (5, 299_999, 1),
    ):
        shown = metric_store.read(series, begin + 1, end, width)
        level = metric_reader.coarsest(end - begin, width)
        covers = chunks.coverage(level)
        size = -(-(end - begin) // (width * covers)) * covers
        expected = [place + 1 for place in brute_extremes(values, begin, end, size)]
        assert shown.step.tolist() == expected
        assert np.array_equal(shown.value, values[shown.step - 1], equal_nan=True)


def test_few_points_come_exactly_nan_included():
    values = np.array([1.0, np.nan, 3.0, np.nan])
    series = stored(values)
    shown = metric_store.read(series, width=1_000)
    assert shown.lists()["v"] == [1.0, None, 3.0, None]
    assert (series.last, series.min, series.max) == (None, 1.0, 3.0)


def test_what_the_engine_sends_becomes_points():
    made = metric_store.points([1, 2, 3], [0.5, None, float("inf")], [1.0, 2.0, 3.0])
    assert made.lists() == {"s": [1, 2, 3], "v": [0.5, None, None], "w": [1.0, 2.0, 3.0]}
    assert made.value.tolist()[2] == math.inf


def brute_odd(step: np.ndarray, value: np.ndarray) -> list[list]:
    """Neighbours of one kind as a range, said as plainly as possible."""
    found: list[list] = []
    open_one = None
    for at, number in zip(step.tolist(), value.tolist(), strict=True):
        kind = "" if math.isfinite(number) else "nan" if math.isnan(number) else str(number)
        if kind and open_one and open_one[2] == kind:
            open_one[1] = at
        else:
            open_one = [at, at, kind] if kind else None
            found += [open_one] if open_one else []
    return found


def test_a_lone_nan_in_a_million_points_is_told_at_every_zoom(a_million):
    values = a_million.copy()
    values[123_456], values[777_777] = np.nan, -np.inf
    series = stored(values, block=99_999)
    assert (series.min, series.max) == (values[np.isfinite(values)].min(), 1e6)  # infinity is no extreme
    nan, inf = [123_457, 123_457, "nan"], [777_778, 777_778, "-inf"]
    for first, last, expected in [
        (None, None, [nan, inf]), (1, 500_000, [nan]), (123_457, 123_457, [nan]), (123_458, 700_000, []),
        (700_000, 800_000, [inf]), (777_700, 777_800, [inf]),
    ]:  # fmt: skip
        for width in (1, 100, 2_000):
            assert metric_store.view(series, first, last, width).odd == expected
    shown = metric_store.read(series, width=1)
    assert np.isfinite(shown.value).all()  # the bucket of an infinity still shows its numbers


@pytest.mark.parametrize("keep", [0, 1, 2_500, 3_000, 3_001, 6_000, 10_000])
def test_where_it_is_not_finite_stays_right_through_blocks_and_trims(keep):
    values = np.random.default_rng(3).normal(size=10_000)
    values[2_000:3_000] = np.nan
    values[3_000:3_500], values[3_500:3_600], values[9_999] = np.inf, -np.inf, np.nan
    series = stored(values, block=777, stride=3)
    steps = 1 + 3 * np.arange(10_000)
    assert series.odd == brute_odd(steps, values)
    reached = 3 * keep - 1  # between two of its steps
    metric_store.trim(series, after_step=reached, fence=1)
    rest = slice(keep, None)
    assert Series.objects.get(pk=series.pk).odd == brute_odd(steps[:keep], values[:keep])
    metric_store.append(
        series.run_id, 1, {"loss/total": Points(steps[rest], values[rest], steps[rest] * 1.0)}
    )
    assert Series.objects.get(pk=series.pk).odd == brute_odd(steps, values)


def test_what_is_odd_everywhere_stays_small_and_marks_every_place():
    values = np.arange(20_000.0)
    values[::3], values[1_000::50] = np.nan, np.inf
    series = stored(values, block=900)
    assert 100 < len(series.odd) <= odd.MOST
    assert [one[0] for one in series.odd] == sorted(one[0] for one in series.odd)
    for first, last, kind in brute_odd(1 + np.arange(20_000), values):
        assert any(a <= first and last <= b and k == kind for a, b, k in series.odd)
    assert metric_store.view(series, 5_000, 5_100).odd == brute_odd(
        np.arange(5_000, 5_101), values[4_999:5_100]
    )  # near enough it is exact again


def test_a_window_without_points_is_empty():
    series = stored(np.arange(10.0), stride=100)
    assert len(metric_store.read(series, 2, 99).step) == 0
    assert len(metric_store.read(series, 5_000).step) == 0
    assert metric_store.read(series, 101, 101).value.tolist() == [1.0]


def test_points_sent_again_change_nothing():
    run = a_running_run()
    block = curve(np.arange(100.0))
    metric_store.append(run.pk, 1, {"lr": block})
    again = Points(block.step, block.value + 7, block.wall)
    assert metric_store.append(run.pk, 1, {"lr": again}) == {}
    assert np.array_equal(everything(Series.objects.get(name="lr")).value, block.value)


def test_steps_that_do_not_rise_are_dropped():
    run = a_running_run()
    metric_store.append(run.pk, 1, {"lr": metric_store.points([3, 2, 3, 5], [1, 2, 3, 4], [0, 0, 0, 0])})
    assert everything(Series.objects.get(name="lr")).step.tolist() == [3, 5]


@pytest.mark.parametrize("keep", [0, 1, 63, 4_095, 4_096, 4_097, 8_192, 140_000, 299_999, 300_000])
def test_trimming_leaves_exactly_what_an_undisturbed_series_has(a_million, keep):
    values = a_million[:300_000]
    trimmed = stored(values, run=a_running_run(name="trimmed"))
    metric_store.trim(trimmed, after_step=keep, fence=1)
    again = a_running_run(name="undisturbed")
    if keep:
        metric_store.append(trimmed.run_id, 1, {"loss/total": curve(values[keep:], first_step=keep + 1)})
    undisturbed = stored(values if keep else values[:0], run=again) if keep else Series(run=again)
    for field in ("count", "last_step", "last", "best", "min", "max", "odd"):
        assert getattr(Series.objects.get(pk=trimmed.pk), field) == getattr(undisturbed, field), field
    kept = MetricChunk.objects.filter(series=trimmed).order_by("level", "seq")
    wanted = MetricChunk.objects.filter(series=undisturbed.pk).order_by("level", "seq") if keep else []
    assert [(c.level, c.seq, c.n, bytes(c.data)) for c in kept] == [
        (c.level, c.seq, c.n, bytes(c.data)) for c in wanted
    ]


def test_trimming_corrects_what_the_series_says_of_itself():
    values = np.array([3.0, 1.0, 2.0, -5.0, 9.0])
    series = stored(values)
    metric_store.trim(series, after_step=3, fence=1)
    series.refresh_from_db()
    assert (series.count, series.last_step, series.last, series.min, series.max) == (3, 3, 2.0, 1.0, 3.0)


def test_a_stale_attempt_writes_nothing():
    series = stored(np.arange(10.0))
    Run.objects.filter(pk=series.run_id).update(fence=2)
    with pytest.raises(Fenced):
        metric_store.append(
            series.run_id, 1, {"loss/total": curve(np.arange(5.0), 11), "lr": curve(np.arange(5.0))}
        )
    with pytest.raises(Fenced):
        metric_store.trim(series, 3, fence=1)
    assert Series.objects.get().count == 10
    assert MetricChunk.objects.get().n == 10


def test_a_run_that_has_ended_takes_no_more_points():
    run = a_running_run(status=Run.Status.CANCELLED)
    with pytest.raises(Fenced):
        metric_store.append(run.pk, 1, {"lr": curve(np.arange(5.0))})


def test_best_is_the_highest_accuracy_and_the_lowest_loss():
    run = a_running_run()
    block = curve(np.array([0.5, 0.9, 0.7]))
    names = ("val/top1", "val/loss", "loss/kd", "lr")
    found = metric_store.append(run.pk, 1, dict.fromkeys(names, block))
    assert [found[name].best for name in names] == [0.9, 0.5, 0.5, None]
    assert metric_store.summary(found["lr"]) == {"last": 0.7, "best": None, "min": 0.5, "max": 0.9, "step": 3}


def test_full_chunks_are_never_written_again():
    series = stored(np.arange(CHUNK * 3.0 + 5))
    Run.objects.filter(pk=series.run_id).update(fence=2)
    metric_store.append(series.run_id, 2, {"loss/total": curve(np.zeros(3), CHUNK * 3 + 6)})
    fences = series.chunks.filter(level=0).order_by("seq").values_list("fence", flat=True)
    assert list(fences) == [1, 1, 1, 2]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_history_of_blocks_and_trims_equals_a_plain_list(data):
    run = a_running_run(name="a history")
    plain: list[float] = []
    for _ in range(data.draw(st.integers(1, 6))):
        size = data.draw(st.sampled_from([1, 100, 4_000, 4_096, 9_000]))
        values = np.random.default_rng(size).normal(size=size)
        metric_store.append(run.pk, 1, {"x": curve(values, first_step=len(plain) + 1)})
        plain += values.tolist()
        if data.draw(st.booleans()):
            plain = plain[: data.draw(st.integers(1, len(plain)))]
            metric_store.trim(Series.objects.get(run=run, name="x"), len(plain), 1)
    series = Series.objects.get(run=run, name="x")
    assert everything(series).value.tolist() == plain
    width = data.draw(st.integers(1, 50))
    shown = metric_store.read(series, width=width)
    assert (shown.value.min(), shown.value.max()) == (min(plain), max(plain)) == (series.min, series.max)
