"""Runs side by side: what was measured of each, or of each group that differs in nothing but the seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean, stdev
from typing import Any

from django.db.models import Prefetch, QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from . import run_config
from .models import Run
from .templatetags.kd import count, duration, filesize, flops, milliseconds, pct, points, ratio, sig

# How the second, the third … run of one colour is drawn.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def measured(key: str) -> Callable[[Run], float | None]:
    """A number of the student's final evaluation."""
    return lambda run: (run.results.get("student") or {}).get(key)


@dataclass(frozen=True)
class Measure:
    """A result: how it is had, written, and which way is better."""

    key: str
    label: Promise
    of: Callable[[Run], float | None]
    show: Callable[[Any], str]
    better: str = ""  # max, min
    signed: bool = False  # a difference: its sign is the news
    percent: bool = False
    ticks: str = "~s"

    def spread(self, deviation: float) -> str:
        return f"±{100 * deviation:.2f}" if self.percent else f"±{self.show(deviation)}"


def took(run: Run) -> float | None:
    return run.took.total_seconds() if run.took else None


def one_place(value: Any) -> str:
    return pct(value, 1)


MEASURES = (
    Measure("accuracy", _("Accuracy"), lambda r: r.accuracy, pct, "max", percent=True, ticks=".1~%"),
    Measure("delta", _("Δ teacher"), lambda r: r.delta_teacher, points, "max", percent=True, ticks=".1~%"),
    Measure("gain", _("Gain"), lambda r: r.gain, points, "max", True, True, ".1~%"),
    Measure("gap_closed", _("Gap closed"), lambda r: r.gap_closed, one_place, "max", False, True, ".0~%"),
    Measure("agreement", _("Agreement"), measured("agreement"), one_place, "max", percent=True, ticks=".1~%"),
    Measure("ece", _("ECE"), measured("ece"), one_place, "min", percent=True, ticks=".1~%"),
    Measure("ratio", _("Compression"), lambda r: r.compression().get("parameters"), ratio, "max", ticks="~g"),
    Measure("parameters", _("Parameters"), lambda r: r.parameters, count, "min"),
    Measure("bytes", _("Size"), lambda r: r.bytes, filesize, "min"),
    Measure("flops", _("FLOPs"), lambda r: r.flops, flops, "min"),
    Measure("latency_ms", _("Latency"), lambda r: r.latency_ms, milliseconds, "min", ticks="~g"),
    Measure("throughput", _("Throughput"), measured("throughput"), sig, "max"),
    Measure("seconds", pgettext_lazy("of a run", "Duration"), took, duration, ticks="~s"),
)
RESULT = {one.key: one for one in MEASURES}


@dataclass(frozen=True)
class Entry:
    """A line of a comparison: a run, or the runs of one configuration under several seeds."""

    runs: tuple[Run, ...]
    config: dict[str, Any]
    dash: str = "solid"

    @property
    def run(self) -> Run:
        """The first of them: its colour, its page."""
        return self.runs[0]

    @property
    def colour(self) -> str:
        return self.run.colour

    @property
    def name(self) -> str:
        """Of a group: what the names have in common."""
        if len(self.runs) == 1:
            return self.run.name
        common = _beginning([run.name for run in self.runs])
        cut = re.sub(r"[\W_]*(seed)?[\W_]*$", "", common, flags=re.IGNORECASE)
        return cut if len(cut) > 2 else self.run.name

    def values(self, measure: Measure) -> list[float]:
        found = (measure.of(run) for run in self.runs)
        return [float(value) for value in found if value is not None]

    def value(self, measure: Measure) -> float | None:
        """The mean over the seeds."""
        values = self.values(measure)
        return fmean(values) if values else None

    def deviation(self, measure: Measure) -> float | None:
        """The sample's standard deviation over the seeds."""
        values = self.values(measure)
        return stdev(values) if len(values) > 1 else None


def _beginning(names: Sequence[str]) -> str:
    """What all of them begin with."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


@dataclass(frozen=True)
class Cell:
    """A result in the table: `value` sorts, `text` is read, `best` is the best of its column."""

    value: float | None
    text: str
    spread: str
    tone: str
    best: bool
    note: str  # what an accuracy is of, where the column holds several kinds


def load(visible: QuerySet[Run], keys: Sequence[int]) -> list[Run]:
    """Those of the runs that are there, in the order given, with all that a comparison reads of them.

    Fifty runs share a few teachers and datasets: each is read once, not once a run.
    """
    control = Prefetch("control", Run.objects.only("accuracy", "status"))
    related = ("dataset", "student", "teacher", control, "beside__teacher")
    found = visible.prefetch_related(*related).defer("metrics", "notes").in_bulk(keys)
    return [found[key] for key in keys if key in found]


def entries(runs: Sequence[Run], seeds: bool = False) -> list[Entry]:
    """In the order of the runs. `seeds`: those that differ in nothing but the seed are one."""
    configs = [run_config.flatten(run) for run in runs]
    groups: dict[Any, list[int]] = {}
    for place, config in enumerate(configs):
        groups.setdefault(_sameness(config) if seeds else place, []).append(place)
    firsts = [runs[places[0]] for places in groups.values()]
    drawn = dashes(run.colour for run in firsts)
    return [
        Entry(tuple(runs[place] for place in places), _joined([configs[place] for place in places]), dash)
        for places, dash in zip(groups.values(), drawn, strict=True)
    ]


def repeats(found: Sequence[Entry]) -> bool:
    """Whether some differ in nothing but the seed."""
    return len({_sameness(entry.config) for entry in found}) < len(found)


def alone(runs: Sequence[Run]) -> list[Entry]:
    """Each run for itself, where nobody asks for its configuration."""
    drawn = dashes(run.colour for run in runs)
    return [Entry((run,), {}, dash) for run, dash in zip(runs, drawn, strict=True)]


def _sameness(config: dict[str, Any]) -> str:
    rest = {key: value for key, value in config.items() if key != run_config.SEED}
    return json.dumps(rest, sort_keys=True, default=str)


def _joined(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """The configuration of a group: its seeds are listed."""
    if len(configs) == 1:
        return configs[0]
    return configs[0] | {run_config.SEED: [config[run_config.SEED] for config in configs]}


def dashes(colours: Iterable[str]) -> list[str]:
    """Solid for the first of a colour, another dash for each further one."""
    seen: Counter[str] = Counter()
    drawn = []
    for colour in colours:
        drawn.append(DASHES[seen[colour] % len(DASHES)])
        seen[colour] += 1
    return drawn


def accuracy(entry: Entry) -> str:
    """What stands beside its name in the list."""
    value = entry.value(MEASURES[0])
    return MEASURES[0].show(value) if value is not None else ""


def metrics(found: Sequence[Entry]) -> set[str]:
    """What the accuracies are of: top-1, mAP, or both kinds, which do not compare."""
    return {run.metric for entry in found for run in entry.runs}


def table(found: Sequence[Entry]) -> tuple[list[Measure], list[tuple[Entry, list[Cell]]]]:
    """The results that any of them has, and a row of cells for each."""
    values = {one.key: [entry.value(one) for entry in found] for one in MEASURES}
    shown = [one for one in MEASURES if any(value is not None for value in values[one.key])]
    mixed = len(metrics(found)) > 1
    best = {one.key: _best(one, values[one.key]) for one in shown}
    if mixed:
        best |= {one.key: None for one in shown if one.percent}
    rows = []
    for place, entry in enumerate(found):
        rows.append((entry, [_cell(entry, one, values[one.key][place], best, mixed) for one in shown]))
    return shown, rows


def _best(measure: Measure, values: list[float | None]) -> float | None:
    """The best of a column; none where all are equal, for then nothing stands out."""
    numbers = [value for value in values if value is not None]
    if len(set(numbers)) < 2 or not measure.better:
        return None
    return max(numbers) if measure.better == "max" else min(numbers)


def _cell(
    entry: Entry, measure: Measure, value: float | None, best: dict[str, float | None], mixed: bool
) -> Cell:
    text = measure.show(value)
    tone = ""
    if measure.signed and value is not None and not text.startswith("±"):
        tone = "up" if value > 0 else "down"
    deviation = entry.deviation(measure)
    return Cell(
        value=value,
        text=text,
        spread=measure.spread(deviation) if deviation else "",
        tone=tone,
        best=value is not None and value == best[measure.key],
        note=entry.run.metric if mixed and measure.key == "accuracy" and value is not None else "",
    )
