"""Curves of runs that differ in nothing but the seed as one: their mean, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.utils.translation import gettext as _
from numpy.typing import NDArray

from experiments import metric_store
from experiments.comparison import Entry
from experiments.models import Series

from ._parts import Figure
from .accuracy import SECTION

Floats = NDArray[np.float64]
WIDTH = 250  # points of a curve; of longer ones minimum and maximum of as many stretches


def aggregated(cards: Sequence[dict[str, Any]], groups: Sequence[Entry], band: str) -> list[dict[str, Any]]:
    """The charts of learning. What else was recorded (the machine's load …) means little as a mean."""
    learning = [card for card in cards if card["section"] == str(SECTION)]
    return [joined(card, groups, band) if card["figure"] else card for card in learning]


def joined(card: dict[str, Any], groups: Sequence[Entry], band: str) -> dict[str, Any]:
    """A chart of curves with one curve a group, complete with its points, over steps. `band`: minmax, std."""
    figure: Figure = card["figure"]
    names = list(dict.fromkeys(trace["meta"]["series"] for trace in figure["data"]))
    held = _points(groups, names)
    traces = [
        trace
        for name in names
        for group in groups
        for trace in _curve(group, [held[run.pk, name] for run in group.runs if (run.pk, name) in held], band)
    ]
    if not traces:
        return card | {"kind": "picture", "figure": None, "empty": _("There are no points yet.")}
    made = figure["layout"] | {"hovermode": "x unified"}
    made["xaxis"] = made["xaxis"] | {"title": {"text": _("step")}}
    return card | {"kind": "picture", "figure": {"data": traces, "layout": made}}


def _points(groups: Sequence[Entry], names: Sequence[str]) -> dict[tuple[int, str], metric_store.Points]:
    runs = [run.pk for group in groups for run in group.runs]
    found = list(Series.objects.filter(run__in=runs, name__in=names, count__gt=0))
    views = metric_store.views(found, width=WIDTH)
    return {(one.run_id, one.name): view.points for one, view in zip(found, views, strict=True)}


def _curve(group: Entry, curves: Sequence[metric_store.Points], band: str) -> list[Figure]:
    """The band (two edges, filled between) and the mean before it; a run alone is its own curve."""
    curves = [one for one in curves if np.isfinite(one.value).any()]
    if not curves:
        return []
    rows = Rows.of(curves)
    low, mean, high = rows.spread(band)
    shared = {"type": "scatter", "mode": "lines", "x": rows.steps.tolist(), "connectgaps": False}
    shared["meta"] = {"color": group.colour, "run": group.run.pk}
    name = f"{group.name} ×{len(curves)}" if len(curves) > 1 else group.name
    traces: list[Figure] = []
    if len(curves) > 1:
        edge = {"line": {"width": 0}, "hoverinfo": "skip", "opacity": 0.35}
        traces += [
            shared | edge | {"name": name, "y": low},
            shared | edge | {"name": name, "y": high, "fill": "tonexty"},
        ]
    return [*traces, shared | {"name": name, "y": mean, "line": {"width": 1.8, "dash": group.dash}}]


@dataclass(frozen=True)
class Rows:
    """Several curves on common steps, a row each: what each one has around a step at least, in the middle,
    and at most. NaN before a curve begins and after it ends."""

    steps: Floats
    low: Floats
    middle: Floats
    high: Floats

    @classmethod
    def of(cls, curves: Sequence[metric_store.Points]) -> Rows:
        """Short curves as they are, on the line that joins their points; long ones in stretches, each with
        its extremes: a spike of one step is never lost."""
        finite = [one.take(np.isfinite(one.value)) for one in curves]
        steps = np.unique(np.concatenate([one.step for one in finite])).astype(float)
        if len(steps) <= 2 * WIDTH:
            rows = np.array([_between(steps, one.step, one.value) for one in finite])
            return cls(steps, rows, rows, rows)
        edges = np.linspace(steps[0], steps[-1] + 1, WIDTH + 1)
        centres = (edges[:-1] + edges[1:]) / 2
        parts = [_stretches(one, edges, centres) for one in finite]
        return cls(np.rint(centres), *(np.array(rows) for rows in zip(*parts, strict=True)))

    def spread(self, band: str) -> tuple[list[Any], list[Any], list[Any]]:
        """Lower edge, mean, upper edge at each step, over the curves that reach it."""
        reached = np.isfinite(self.middle)
        some: NDArray[np.bool] = reached.sum(axis=0) > 0
        count = np.maximum(reached.sum(axis=0), 1)
        mean = np.where(reached, self.middle, 0).sum(axis=0) / count
        if band == "std":
            squares = np.where(reached, (self.middle - mean) ** 2, 0).sum(axis=0)
            deviation = np.sqrt(squares / np.maximum(count - 1, 1))
            low, high = mean - deviation, mean + deviation
        else:
            low = np.where(reached, self.low, np.inf).min(axis=0)
            high = np.where(reached, self.high, -np.inf).max(axis=0)
        return _plain(low, some), _plain(mean, some), _plain(high, some)


def _between(steps: Floats, known: NDArray[Any], value: Floats) -> Floats:
    return np.interp(steps, known, value, left=np.nan, right=np.nan)


def _stretches(one: metric_store.Points, edges: Floats, centres: Floats) -> tuple[Floats, Floats, Floats]:
    """Minimum, mean and maximum of a curve's points in each stretch; an empty one lies between its
    neighbours."""
    place = np.clip(np.searchsorted(edges, one.step, side="right") - 1, 0, len(centres) - 1)
    held, starts, n = np.unique(place, return_index=True, return_counts=True)
    low, high = np.minimum.reduceat(one.value, starts), np.maximum.reduceat(one.value, starts)
    middle = np.add.reduceat(one.value, starts) / n
    low, middle, high = (_between(centres, centres[held], part) for part in (low, middle, high))
    return low, middle, high


def _plain(values: Floats, some: NDArray[Any]) -> list[float | None]:
    return [float(value) if there else None for value, there in zip(values, some, strict=True)]
