"""Curves of any length: a pyramid of compressed chunks in the ordinary database.

Level 0 holds the points as logged, 4,096 a chunk. Each further level holds the minimum and the maximum
(with their own steps) of every 64 points of the level below, written when a chunk there is full. All
chunks but the last of a level are full, so that the place of a point says which bucket of which level
covers it and no reader needs more than the chunks it shows.

Values are stored as float64: a table or a download shows the very number the engine logged, and float32
values cost little more, for zstd removes their zero bytes once the bytes are laid out plane by plane.
NaN and ±Inf are points like any other where points are exact; in a bucket they show when nothing else is
there, and `Series.odd` says at every zoom where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import zstandard
from django.db import transaction
from numpy.typing import NDArray

from . import measurements, odd
from .models import MetricChunk, Run, Series

CHUNK = 4096
BUCKET = 64
UPWARDS = 2 * CHUNK // BUCKET  # points a full chunk puts on the next level: a minimum and a maximum a bucket

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Fenced(Exception):
    """Another attempt holds the run: nothing was written, and the writer has to stop."""


class Points(NamedTuple):
    """Steps rising; any float64, NaN and ±Inf too; `wall` in Unix seconds."""

    step: I64
    value: F64
    wall: F64

    def take(self, part: slice | NDArray[Any]) -> Points:
        return Points(self.step[part], self.value[part], self.wall[part])

    def lists(self) -> dict[str, list[Any]]:
        """As the page's frames have them: {s: steps, v: values, None where not finite, w: wall}."""
        values = self.value.astype(object)
        values[~np.isfinite(self.value)] = None
        return {"s": self.step.tolist(), "v": values.tolist(), "w": self.wall.tolist()}


EMPTY = Points(np.empty(0, np.int64), np.empty(0), np.empty(0))


def points(steps: Iterable[int], values: Iterable[float | None], wall: Iterable[float]) -> Points:
    """None is NaN."""
    number, value, at = list(steps), list(values), list(wall)
    return Points(np.array(number, np.int64), np.array(value, np.float64), np.array(at, np.float64))


def join(parts: list[Points]) -> Points:
    return Points(*map(np.concatenate, zip(*parts, strict=True))) if parts else EMPTY


# --- A chunk as bytes -------------------------------------------------------------------------------------
def _planes(array: NDArray[Any]) -> bytes:
    """All first bytes, then all second bytes …: neighbours are alike, and zstd sees it."""
    return array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def _unplane(data: bytes, kind: str) -> NDArray[Any]:
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(size, -1).T).view(kind).ravel()


def encode(chunk: Points) -> bytes:
    deltas = np.diff(chunk.step, prepend=chunk.step[0]).astype("<u4")
    parts = (deltas, chunk.value.astype("<f8"), chunk.wall.astype("<f8"))
    return zstandard.ZstdCompressor(level=3).compress(b"".join(map(_planes, parts)))


def decode(data: bytes | memoryview[int], first_step: int) -> Points:
    raw = zstandard.ZstdDecompressor().decompress(bytes(data))
    n = len(raw) // 20
    deltas = _unplane(raw[: 4 * n], "<u4").astype(np.int64)
    value, wall = _unplane(raw[4 * n : 12 * n], "<f8"), _unplane(raw[12 * n :], "<f8")
    return Points(first_step + np.cumsum(deltas), value.astype(np.float64), wall.astype(np.float64))


# --- Minimum and maximum ----------------------------------------------------------------------------------
def _extremes(values: F64, starts: I64) -> I64:
    """For the buckets that begin at `starts`: the places of each one's minimum and maximum, in order.

    Of equal values the first counts. What is not finite is passed over, for an infinity would hide the
    largest number; a bucket of nothing else gives its first point, twice.
    """
    sizes = np.diff(np.append(starts, len(values)))
    bucket = np.repeat(np.arange(len(starts)), sizes)
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf)
    high = np.where(finite, values, -np.inf)
    at_low = np.flatnonzero(low == np.minimum.reduceat(low, starts)[bucket])
    at_high = np.flatnonzero(high == np.maximum.reduceat(high, starts)[bucket])
    # Of the places that hold a bucket's extreme, the first: they are sorted by bucket.
    pair = np.stack([at[np.searchsorted(bucket[at], np.arange(len(starts)))] for at in (at_low, at_high)], 1)
    pair.sort(axis=1)
    return pair.ravel()


def _upwards(chunk: Points) -> Points:
    """What a full chunk puts on the next level."""
    return chunk.take(_extremes(chunk.value, np.arange(0, CHUNK, BUCKET)))


# --- Writing ----------------------------------------------------------------------------------------------
@dataclass
class _Writer:
    """The open chunks of one series, changed in memory and saved together."""

    series_id: int
    fence: int
    tails: dict[int, tuple[int, Points]]  # level → (seq, points so far)
    changed: dict[tuple[int, int], MetricChunk]

    def append(self, level: int, new: Points) -> None:
        seq, tail = self.tails.get(level, (0, EMPTY))
        block = join([tail, new])
        while len(block.step) >= CHUNK:
            full, block = block.take(slice(CHUNK)), block.take(slice(CHUNK, None))
            self._put(level, seq, full)
            seq += 1
            self.append(level + 1, _upwards(full))
        if len(block.step):
            self._put(level, seq, block)
        self.tails[level] = (seq, block)

    def _put(self, level: int, seq: int, chunk: Points) -> None:
        self.changed[level, seq] = MetricChunk(
            series_id=self.series_id,
            level=level,
            seq=seq,
            first_step=int(chunk.step[0]),
            last_step=int(chunk.step[-1]),
            n=len(chunk.step),
            fence=self.fence,
            data=encode(chunk),
        )


def level_sizes(count: int) -> list[int]:
    """How many points each level of a series of `count` points holds."""
    sizes = [count]
    while sizes[-1] >= CHUNK:
        sizes.append(sizes[-1] // CHUNK * UPWARDS)
    return sizes


def hold(run_id: int, fence: int) -> None:
    """First statement of every writing transaction: from here to its end no other attempt can begin."""
    if not Run.objects.filter(pk=run_id, fence=fence, status__in=Run.ACTIVE).update(fence=fence):
        raise Fenced(f"attempt {fence} of run {run_id} may not write any more")


def append(run_id: int, fence: int, new: Mapping[str, Points]) -> dict[str, Series]:
    """Adds points to the run's series; those at or before a series' last step are there already.

    Gives the series that changed. Raises Fenced, with nothing written, when another attempt holds the run.
    """
    with transaction.atomic():
        hold(run_id, fence)
        found = _series(run_id, new)
        fresh = {name: _after(found[name], block) for name, block in new.items()}
        fresh = {name: block for name, block in fresh.items() if len(block.step)}
        touched = {name: found[name] for name in fresh}
        tails = _tails(touched.values())
        chunks: list[MetricChunk] = []
        for name, block in fresh.items():
            writer = _Writer(touched[name].pk, fence, tails.get(touched[name].pk, {}), {})
            writer.append(0, block)
            chunks += writer.changed.values()
            _note_odd(touched[name], block)
            _count_in(touched[name], block)
        _save(touched.values(), chunks)
    return touched


def _series(run_id: int, names: Iterable[str]) -> dict[str, Series]:
    """The rows of these series; new ones are made. No other writer is here: the run is held."""
    found = {series.name: series for series in Series.objects.filter(run_id=run_id, name__in=list(names))}
    missing = [
        Series(run_id=run_id, name=name, unit=measurements.unit(name)) for name in names if name not in found
    ]
    return found | {series.name: series for series in Series.objects.bulk_create(missing)}


def _after(series: Series, block: Points) -> Points:
    """The block without what the series has, and with rising steps only."""
    reached = series.last_step if series.count else -1
    before = np.maximum.accumulate(np.concatenate([[reached], block.step[:-1]]))
    return block.take(block.step > before)


def _tails(series: Iterable[Series]) -> dict[int, dict[int, tuple[int, Points]]]:
    """The open chunk of each level, and where the next begins."""
    where = {one.pk: level_sizes(one.count) for one in series if one.count}
    opened = MetricChunk.objects.filter(series_id__in=list(where), n__lt=CHUNK)
    held = {(chunk.series_id, chunk.level, chunk.seq): chunk for chunk in opened}
    tails: dict[int, dict[int, tuple[int, Points]]] = {}
    for pk, sizes in where.items():
        for level, size in enumerate(sizes):
            chunk = held.get((pk, level, size // CHUNK))
            tail = decode(chunk.data, chunk.first_step) if chunk else EMPTY
            tails.setdefault(pk, {})[level] = (size // CHUNK, tail)
    return tails


def _save(series: Iterable[Series], chunks: list[MetricChunk]) -> None:
    Series.objects.bulk_update(list(series), ["count", "last_step", "last", "best", "min", "max", "odd"])
    MetricChunk.objects.bulk_create(
        chunks,
        batch_size=100,
        update_conflicts=True,
        unique_fields=["series", "level", "seq"],
        update_fields=["first_step", "last_step", "n", "fence", "data"],
    )


# --- The summary a series carries -------------------------------------------------------------------------
def better(name: str) -> str | None:
    """Which way is up: `max` for accuracies, `min` for losses, None for what is neither (lr, throughput)."""
    group, _, kind = name.rpartition("/")
    if kind.startswith("top") or kind in ("map", "f1"):
        return "max"
    return "min" if group == "loss" or kind == "loss" else None


def _note_odd(series: Series, block: Points) -> None:
    """Where `block`, which is about to be counted in, is not finite."""
    reached = series.last_step if series.count else -1
    series.odd = odd.added(series.odd, odd.ranges(block.step, block.value), reached, int(block.step[0]))


def _count_in(series: Series, block: Points) -> None:
    """last, min, max and best after `block`, without reading what came before."""
    series.count += len(block.step)
    series.last_step = int(block.step[-1])
    series.last = float(block.value[-1]) if np.isfinite(block.value[-1]) else None
    finite = block.value[np.isfinite(block.value)]
    if len(finite):
        low, high = float(finite.min()), float(finite.max())
        series.min = low if series.min is None else min(low, series.min)
        series.max = high if series.max is None else max(high, series.max)
    series.best = {"max": series.max, "min": series.min, None: None}[better(series.name)]


def summary(series: Series) -> dict[str, float | int | None]:
    """What the run's row keeps of a series, so that lists never touch points."""
    kept = {name: getattr(series, name) for name in ("last", "best", "min", "max")}
    return kept | {"step": series.last_step}


# --- Going back -------------------------------------------------------------------------------------------
def trim(series: Series, after_step: int, fence: int) -> None:
    """Forgets the points after a step: the engine goes on from a checkpoint and will log them again."""
    with transaction.atomic():
        hold(series.run_id, fence)
        series.refresh_from_db()
        count = _place(series, after_step + 1)
        if count == series.count:
            return
        for level, size in enumerate(level_sizes(count)):
            _cut(series, level, size, fence)
        series.chunks.filter(level__gt=len(level_sizes(count)) - 1).delete()
        series.count, series.last_step = 0, 0
        series.last = series.best = series.min = series.max = None
        if count:
            everything = _collect(series.pk, level_sizes(count), 0, count, _coarsest(count, 1))[1]
            _count_in(series, everything)
            last: Points = _fetch(series.pk, 0, count - 1, count)
            _count_in(series, last)
            series.count = count
        series.odd = odd.until(series.odd, series.last_step) if count else []
        series.save()


def _cut(series: Series, level: int, size: int, fence: int) -> None:
    seq, rest = divmod(size, CHUNK)
    series.chunks.filter(level=level, seq__gt=seq if rest else seq - 1).delete()
    if rest:
        kept = _fetch(series.pk, level, seq * CHUNK, size)
        writer = _Writer(series.pk, fence, {}, {})
        writer._put(level, seq, kept)
        _save([], list(writer.changed.values()))


# --- Reading ----------------------------------------------------------------------------------------------
class View(NamedTuple):
    """What a chart shows of a series: every point (exact), or the minimum and maximum of each bucket."""

    points: Points
    exact: bool
    odd: list[odd.Range]  # where the series is not finite within the window, drawn or not


def read(series: Series, first: int | None = None, last: int | None = None, width: int = 1000) -> Points:
    """The points of `view`."""
    return view(series, first, last, width).points


def view(series: Series, first: int | None = None, last: int | None = None, width: int = 1000) -> View:
    """The points of steps first … last for a chart of `width` pixels.

    All of them where they are at most 2 × width. Otherwise the minimum and the maximum of at most
    width + 1 buckets of equally many points: no spike is ever lost. The buckets do not depend on where
    the window begins, so that a curve does not shimmer while it grows or is dragged.
    """
    begin = 0 if first is None else _place(series, first)
    end = series.count if last is None else _place(series, last + 1)
    width = max(1, width)
    if end - begin <= 2 * width:
        found = _fetch(series.pk, 0, begin, end)
        return View(found, True, odd.ranges(found.step, found.value))
    return View(_envelope(series, begin, end, width), False, odd.between(series.odd, first, last))


def _envelope(series: Series, begin: int, end: int, width: int) -> Points:
    level = _coarsest(end - begin, width)
    places, found = _collect(series.pk, level_sizes(series.count), begin, end, level)
    if not len(found.step):  # trimmed a moment ago
        return EMPTY
    covers = coverage(level)
    bucket = places // (-(-(end - begin) // (width * covers)) * covers)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    envelope = found.take(_extremes(found.value, starts))
    return envelope.take(np.diff(envelope.step, prepend=-1) > 0)


def coverage(level: int) -> int:
    """How many logged points one bucket (two points) of a level stands for."""
    return 1 if level == 0 else BUCKET * (BUCKET // 2) ** (level - 1)


def _coarsest(count: int, width: int) -> int:
    """The highest level that still has two buckets for each one shown, so that they fill evenly."""
    level = 0
    while level + 1 < len(level_sizes(count)) and coverage(level + 1) * 2 * width <= count:
        level += 1
    return level


def _place(series: Series, step: int) -> int:
    """How many points the series has before `step`."""
    if not series.count or step > series.last_step:
        return series.count
    chunk = series.chunks.filter(level=0, last_step__gte=step).order_by("seq").first()
    if chunk is None:
        return series.count
    return chunk.seq * CHUNK + int(np.searchsorted(decode(chunk.data, chunk.first_step).step, step))


def _fetch(series_id: int, level: int, begin: int, end: int) -> Points:
    """Points begin … end−1 of a level, by place."""
    if end <= begin:
        return EMPTY
    rows = MetricChunk.objects.filter(
        series_id=series_id, level=level, seq__gte=begin // CHUNK, seq__lte=(end - 1) // CHUNK
    ).order_by("seq")
    parts = []
    for chunk in rows:
        offset = chunk.seq * CHUNK
        parts.append(decode(chunk.data, chunk.first_step).take(slice(max(0, begin - offset), end - offset)))
    return join(parts)


def _collect(series_id: int, sizes: list[int], begin: int, end: int, level: int) -> tuple[I64, Points]:
    """Logged points begin … end−1 as `level` has them, the ends filled from finer levels.

    Gives with each point the place of the bucket it stands for.
    """
    if level == 0:
        found = _fetch(series_id, 0, begin, end)
        return np.arange(begin, begin + len(found.step)), found
    covers = coverage(level)
    from_bucket, to_bucket = -(-begin // covers), min(end // covers, sizes[level] // 2)
    if to_bucket <= from_bucket:
        return _collect(series_id, sizes, begin, end, level - 1)
    middle = _fetch(series_id, level, 2 * from_bucket, 2 * to_bucket)
    parts = [(np.repeat(np.arange(from_bucket, to_bucket) * covers, 2)[: len(middle.step)], middle)]
    if begin < from_bucket * covers:
        parts.insert(0, _collect(series_id, sizes, begin, from_bucket * covers, level - 1))
    if to_bucket * covers < end:
        parts.append(_collect(series_id, sizes, to_bucket * covers, end, level - 1))
    return np.concatenate([places for places, _ in parts]), join([found for _, found in parts])


def export(series: Series) -> Iterator[Points]:
    """Every point as logged, a chunk at a time."""
    for chunk in series.chunks.filter(level=0).order_by("seq").iterator(chunk_size=8):
        yield decode(chunk.data, chunk.first_step)
