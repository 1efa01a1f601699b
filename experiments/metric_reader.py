"""Curves for charts: a range of steps and a width in pixels become few points, of many series at once.

Three queries answer for any number of series: where the window's ends are, and the chunks it needs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
from django.db.models import Max, Q

from . import odd
from .chunks import CHUNK, EMPTY, I64, Points, coverage, decode, extremes, join, level_sizes
from .models import MetricChunk, Series

TERMS = 50  # of a query


class View(NamedTuple):
    """What a chart shows of a series: every point (exact), or the minimum and maximum of each bucket."""

    points: Points
    exact: bool
    odd: list[odd.Range]  # where the series is not finite within the window, drawn or not


class Segment(NamedTuple):
    """Points begin … end−1 of a level, by place."""

    level: int
    begin: int
    end: int


Held = dict[tuple[int, int, int], Points]  # (series, level, seq) → the chunk


def read(series: Series, first: int | None = None, last: int | None = None, width: int = 1000) -> Points:
    """The points of `view`."""
    return view(series, first, last, width).points


def view(series: Series, first: int | None = None, last: int | None = None, width: int = 1000) -> View:
    """`views` of one series."""
    return views([series], first, last, width)[0]


def views(
    series: Sequence[Series], first: int | None = None, last: int | None = None, width: int = 1000
) -> list[View]:
    """The points of steps first … last of each series, for a chart of `width` pixels.

    All of them where they are at most 2 × width. Otherwise the minimum and the maximum of at most
    width + 1 buckets of equally many points: no spike is ever lost. The buckets do not depend on where
    the window begins, so that a curve does not shimmer while it grows or is dragged.
    """
    width = max(1, width)
    begins = [0] * len(series) if first is None else places(series, first)
    ends = [one.count for one in series] if last is None else places(series, last + 1)
    plans = [plan(one.count, begin, end, width) for one, begin, end in zip(series, begins, ends, strict=True)]
    held = load([(one.pk, parts) for one, parts in zip(series, plans, strict=True)])
    found = []
    for one, parts, begin, end in zip(series, plans, begins, ends, strict=True):
        if end - begin <= 2 * width:
            points = join([_cut_out(held, one.pk, part) for part in parts])
            found.append(View(points, True, odd.ranges(points.step, points.value)))
        else:
            points = _envelope(held, one.pk, parts, end - begin, width)
            found.append(View(points, False, odd.between(one.odd, first, last)))
    return found


def _envelope(held: Held, series_id: int, parts: list[Segment], count: int, width: int) -> Points:
    at, found = collected(held, series_id, parts)
    if not len(found.step):  # trimmed a moment ago
        return EMPTY
    covers = coverage(max(part.level for part in parts))
    bucket = at // (-(-count // (width * covers)) * covers)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    envelope = found.take(extremes(found.value, starts))
    return envelope.take(np.diff(envelope.step, prepend=-1) > 0)


# --- Which points -----------------------------------------------------------------------------------------
def plan(count: int, begin: int, end: int, width: int) -> list[Segment]:
    """What to read of a series of `count` points for logged points begin … end−1."""
    if end <= begin:
        return []
    level = 0 if end - begin <= 2 * width else coarsest(end - begin, width)
    return covering(level_sizes(count), begin, end, level)


def coarsest(count: int, width: int) -> int:
    """The highest level that still has two buckets for each one shown, so that they fill evenly."""
    level = 0
    while level + 1 < len(level_sizes(count)) and coverage(level + 1) * 2 * width <= count:
        level += 1
    return level


def covering(sizes: list[int], begin: int, end: int, level: int) -> list[Segment]:
    """Logged points begin … end−1 as `level` has them, the ends filled from finer levels; in order."""
    if end <= begin:
        return []
    if level == 0:
        return [Segment(0, begin, end)]
    covers = coverage(level)
    first, last = -(-begin // covers), min(end // covers, sizes[level] // 2)
    if last <= first:
        return covering(sizes, begin, end, level - 1)
    before = covering(sizes, begin, first * covers, level - 1)
    after = covering(sizes, last * covers, end, level - 1)
    return [*before, Segment(level, 2 * first, 2 * last), *after]


def places(series: Sequence[Series], step: int) -> list[int]:
    """How many points each series has before `step`."""
    within = [one.pk for one in series if one.count and step <= one.last_step]
    raw = MetricChunk.objects.filter(level=0)
    # The chunk that begins last at or before the step, found in the index alone.
    begins = (
        raw.filter(series__in=within, first_step__lte=step).values_list("series").annotate(Max("first_step"))
    )
    chunks = {}
    for some in _batches([Q(series=pk, first_step=first) for pk, first in begins.order_by()]):
        for pk, seq, first, data in raw.filter(some).values_list("series_id", "seq", "first_step", "data"):
            chunks[pk] = seq * CHUNK + int(np.searchsorted(decode(data, first).step, step))
    return [chunks.get(one.pk, 0 if one.pk in within else one.count) for one in series]


# --- Out of the database ----------------------------------------------------------------------------------
def load(wanted: Iterable[tuple[int, list[Segment]]]) -> Held:
    """The chunks that hold these segments. Series of one length, as a run's mostly are, share a term."""
    shared: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for pk, parts in wanted:
        for level, begin, end in parts:
            shared[level, begin // CHUNK, (end - 1) // CHUNK].append(pk)
    terms = [
        Q(series__in=pks, level=level, seq__gte=first, seq__lte=last)
        for (level, first, last), pks in shared.items()
    ]
    columns = ("series_id", "level", "seq", "first_step", "data")
    return {
        (pk, level, seq): decode(data, first)
        for some in _batches(terms)
        for pk, level, seq, first, data in MetricChunk.objects.filter(some).values_list(*columns)
    }


def _batches(terms: list[Q]) -> Iterator[Q]:
    for begin in range(0, len(terms), TERMS):
        yield reduce(or_, terms[begin : begin + TERMS])


def _cut_out(held: Held, series_id: int, part: Segment) -> Points:
    """A segment; what is missing of it was trimmed a moment ago."""
    found = []
    for seq in range(part.begin // CHUNK, (part.end - 1) // CHUNK + 1):
        chunk = held.get((series_id, part.level, seq), EMPTY)
        found.append(chunk.take(slice(max(0, part.begin - seq * CHUNK), part.end - seq * CHUNK)))
    return join(found)


def collected(held: Held, series_id: int, parts: list[Segment]) -> tuple[I64, Points]:
    """The points of the segments, and with each the place of the logged point where its bucket begins."""
    at, found = [], []
    for part in parts:
        points = _cut_out(held, series_id, part)
        each = 2 if part.level else 1
        buckets = np.arange(part.begin // each, part.end // each) * coverage(part.level)
        at.append(np.repeat(buckets, each)[: len(points.step)])
        found.append(points)
    return np.concatenate(at), join(found)


def fetch(series_id: int, level: int, begin: int, end: int) -> Points:
    """Points begin … end−1 of a level, by place."""
    part = Segment(level, begin, end)
    return _cut_out(load([(series_id, [part])]), series_id, part) if end > begin else EMPTY


def outline(series_id: int, count: int) -> Points:
    """The first `count` logged points as coarsely as the levels have them: for their extremes."""
    parts = plan(count, 0, count, 1)
    return collected(load([(series_id, parts)]), series_id, parts)[1]


def export(series: Series) -> Iterator[Points]:
    """Every point as logged, a chunk at a time."""
    for chunk in series.chunks.filter(level=0).order_by("seq").iterator(chunk_size=8):
        yield decode(chunk.data, chunk.first_step)
