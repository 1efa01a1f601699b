"""Curves of any length: a pyramid of compressed chunks in the ordinary database.

Level 0 holds the points as logged, 4,096 a chunk. Each further level holds the minimum and the maximum
(with their own steps) of every 64 points of the level below, written when a chunk there is full. All
chunks but the last of a level are full, so that the place of a point says which bucket of which level
covers it and no reader needs more than the chunks it shows.

NaN and ±Inf are points like any other where points are exact; in a bucket they show when nothing else is
there, and `Series.odd` says at every zoom where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from django.db import transaction

from . import measurements, odd
from .chunks import CHUNK, EMPTY, Points, decode, encode, join, level_sizes, points, upwards
from .metric_reader import View, export, fetch, outline, places, read, view, views
from .models import MetricChunk, Run, Series

__all__ = [
    "CHUNK",
    "Fenced",
    "Points",
    "View",
    "append",
    "better",
    "export",
    "hold",
    "join",
    "points",
    "read",
    "summary",
    "trim",
    "view",
    "views",
]


class Fenced(Exception):
    """Another attempt holds the run: nothing was written, and the writer has to stop."""


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
            self.append(level + 1, upwards(full))
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
        count = places([series], after_step + 1)[0]
        if count == series.count:
            return
        for level, size in enumerate(level_sizes(count)):
            _cut(series, level, size, fence)
        series.chunks.filter(level__gt=len(level_sizes(count)) - 1).delete()
        series.count, series.last_step = 0, 0
        series.last = series.best = series.min = series.max = None
        if count:
            _count_in(series, outline(series.pk, count))
            _count_in(series, fetch(series.pk, 0, count - 1, count))
            series.count = count
        series.odd = odd.until(series.odd, series.last_step) if count else []
        series.save()


def _cut(series: Series, level: int, size: int, fence: int) -> None:
    seq, rest = divmod(size, CHUNK)
    series.chunks.filter(level=level, seq__gt=seq if rest else seq - 1).delete()
    if rest:
        kept = fetch(series.pk, level, seq * CHUNK, size)
        writer = _Writer(series.pk, fence, {}, {})
        writer._put(level, seq, kept)
        _save([], list(writer.changed.values()))
