"""Parallel coordinates: a line a run through the settings that differ, to what came of it.

Drawn as ordinary lines rather than Plotly's `parcoords`: those can be neither pointed at nor clicked, need
WebGL, and compile code as they run, which the page's content security policy forbids.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments.comparison import Entry, entries
from experiments.comparison_axes import Axis, Value, results, settings

from ._parts import Figure, View, layout, step_of_scale

KEY = "parallel"
TITLE = gettext_lazy("From settings to results")
SECTION = gettext_lazy("Result")
ORDER = 92
SCOPES = ("pictures",)
SERIES: tuple[str, ...] = ()
MOST_SETTINGS = 8
RESULTS = ("latency_ms", "parameters", "gain", "accuracy")  # in this order at the right
WIDE = 100.0  # from this ratio on an axis is logarithmic


def figure(view: View) -> Figure | str:
    found = entries([subject.run for subject in view.subjects], bool(view.options.get("seeds")))
    measured = {axis.key: axis for axis in results(found)}
    ends = [measured[key] for key in RESULTS if key in measured and len(set(measured[key].values)) > 1]
    axes = [*telling(settings(found))[:MOST_SETTINGS], *ends]
    if len(axes) < 2 or not ends:
        return _("Lines appear when runs with different settings have ended.")
    heights = [Heights(axis) for axis in axes]
    traces = [line(entry, place, heights) for place, entry in enumerate(found)]
    made = layout(_("low to high"), range=[-0.06, 1.06], showticklabels=False, showgrid=False)
    made["hovermode"] = "closest"
    made["xaxis"] |= {
        "title": {"text": _("settings at the left, results at the right")},
        "tickvals": list(range(len(axes))),
        "ticktext": [html.escape(short(axis.label, 18)) for axis in axes],
        "range": [-0.2, len(axes) - 0.3],
        "autotickangles": [0, 30, 60],
        "showgrid": False,
    }
    made["shapes"] = [upright(place) for place in range(len(axes))]
    room = max(6, 110 // len(axes))
    made["annotations"] = [note for place, one in enumerate(heights) for note in one.notes(place, room)]
    return {"data": traces, "layout": made}


class Heights:
    """Where the values of an axis stand between 0 and 1."""

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        present = {value for value in axis.values if value is not None}
        self.words = sorted(map(str, present)) if not axis.numeric else []
        self.low, self.high = 0.0, 1.0
        if not self.words and present:
            self.low, self.high = min(map(float, present)), max(map(float, present))
        self.log = axis.positive and not self.words and self.high / (self.low or 1) >= WIDE

    def of(self, value: Value) -> float | None:
        if value is None:
            return None
        if self.words:
            return 0.5 if len(self.words) == 1 else self.words.index(str(value)) / (len(self.words) - 1)
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(float(value) / self.low) / math.log(self.high / self.low)
        return (float(value) - self.low) / (self.high - self.low)

    def notes(self, place: int, room: int) -> list[Figure]:
        """Words all; of numbers the few there are, else the ends and the middle. `room`: letters between two
        axes."""
        if self.words:
            marked: Sequence[Value] = self.words
        else:
            distinct = sorted({float(value) for value in self.axis.values if value is not None})
            middle = (self.low * self.high) ** 0.5 if self.log else (self.low + self.high) / 2
            marked = distinct if len(distinct) <= 4 else [self.low, middle, self.high]
        return [tick(place, self.of(value) or 0.0, short(self.axis.show(value), room)) for value in marked]


def line(entry: Entry, place: int, heights: Sequence[Heights]) -> Figure:
    """Coloured by where it ends on the last axis."""
    values = [one.axis.values[place] for one in heights]
    end = heights[-1].of(values[-1])
    shown = [
        f"{html.escape(one.axis.label)}: {html.escape(one.axis.show(value))}"
        for one, value in zip(heights, values, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": entry.name,
        "x": list(range(len(heights))),
        "y": [one.of(value) for one, value in zip(heights, values, strict=True)],
        "customdata": [entry.run.pk] * len(heights),
        "hovertext": [f"{html.escape(entry.name)}<br>{words}" for words in shown],
        "hoverinfo": "text",
        "connectgaps": False,
        "line": {"width": 1.8, "shape": "linear"},
        "marker": {"size": 5},
        "opacity": 0.85 if end is not None else 0.4,
        "meta": {
            "color": "ink-3" if end is None else step_of_scale(end),
            "opens": "runs",
            "run": entry.run.pk,
        },
    }


def telling(found: Sequence[Axis]) -> list[Axis]:
    """Without words that part the runs as earlier words did: a student's name and its architecture."""
    parted, kept = set(), []
    for axis in found:
        groups: dict[Value, list[int]] = {}
        for place, value in enumerate(axis.values):
            groups.setdefault(value, []).append(place)
        parts = frozenset(map(tuple, groups.values()))
        if axis.numeric or parts not in parted:
            kept.append(axis)
        if not axis.numeric:
            parted.add(parts)
    return kept


def short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def upright(place: int) -> Figure:
    span = {"xref": "x", "yref": "y", "x0": place, "x1": place, "y0": 0, "y1": 1}
    return {"type": "line", "layer": "below", "name": "axis", "line": {"width": 1, "dash": "solid"}} | span


def tick(place: int, height: float, words: str) -> Figure:
    return {
        "name": "ink-2",
        "text": html.escape(words),
        "xref": "x",
        "yref": "y",
        "x": place,
        "y": height,
        "xanchor": "left",
        "xshift": 4,
        "yanchor": "middle",
        "showarrow": False,
        "borderpad": 1,
        "font": {"size": 11},
    }
