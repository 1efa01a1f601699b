"""How accurate can how small be: a project's finished models, the front among them, the best below a size.

Only columns are read, never a run's JSON: a project has ten thousand runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from .models import Dataset, Project, Run, Teacher
from .templatetags.kd import count, filesize, flops, milliseconds

CELLS = (240, 120)  # of the chart, each about the size of a mark: of those in one, the best is drawn
K, KI = 1000.0, 1024.0
METRIC = {"": 1.0, "k": K, "m": K**2, "b": K**3, "g": K**3, "t": K**4}
BYTES = {
    **{prefix + "b": K**power for power, prefix in enumerate(("", "k", "m", "g"))},
    **{prefix: K**power for power, prefix in enumerate(("", "k", "m", "g"))},
    **{prefix + "ib": KI**power for power, prefix in enumerate(("", "k", "m", "g")) if prefix},
}
FLOPS = {prefix + word: by for prefix, by in METRIC.items() for word in ("", "flop", "flops")}
TIMES = {"": 1.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}


@dataclass(frozen=True)
class Cost:
    """What a model may cost. `column` of Run; `of_teacher` is the key of the engine's measurement."""

    column: str
    label: Promise
    axis: Promise
    ticks: str
    of_teacher: str
    units: dict[str, float]
    show: Callable[[Any], str]
    example: str


COSTS = {
    "parameters": Cost(
        "parameters",
        gettext_lazy("Parameters"),
        gettext_lazy("parameters"),
        "~s",
        "parameters",
        METRIC,
        count,
        "500k",
    ),
    "bytes": Cost(
        "bytes", gettext_lazy("Size"), gettext_lazy("bytes on disk"), "~s", "bytes", BYTES, filesize, "2 MB"
    ),
    "flops": Cost("flops", gettext_lazy("FLOPs"), gettext_lazy("FLOPs"), "~s", "flops", FLOPS, flops, "20M"),
    "latency_ms": Cost(
        "latency_ms",
        gettext_lazy("Latency"),
        gettext_lazy("latency (ms)"),
        "~g",
        "latency_p50_ms",
        TIMES,
        milliseconds,
        "5 ms",
    ),
}


class Point(NamedTuple):
    """A model: what it costs, how good it is, its name, the key of its run or teacher."""

    cost: float
    accuracy: float
    name: str
    pk: int


@dataclass(frozen=True)
class Models:
    """What a Pareto chart shows. `left_out`: models that another one's mark would cover."""

    students: Sequence[Point]
    controls: Sequence[Point] = ()
    teachers: Sequence[Point] = ()
    metric: str = "top-1"
    dataset: str = ""
    colours: dict[int, tuple[str, str]] = field(default_factory=dict)  # run → its colour and dash
    left_out: int = 0
    limit: float | None = None


def known(cost: str) -> str:
    """The cost asked for. Raises ValueError where there is no such."""
    if cost not in COSTS:
        raise ValueError(f"x = {cost[:80]!r}: there is no such axis. Choose {', '.join(COSTS)}.")
    return cost


def limit_of(text: str, cost: str) -> float | None:
    """`500k`, `2 MB`, `5 ms` as a number; None for nothing. Raises ValueError for anything else."""
    text = text.strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:,\d{3})+|\d+)(\.\d+)?\s*([a-zµ]*)", text.lower().replace("μ", "µ"))
    by = COSTS[cost].units.get(found[3]) if found else None
    if found is None or by is None:
        example = COSTS[cost].example
        raise ValueError(
            _("“%(text)s” is no limit for this. Write it like %(example)s.")
            % {"text": text[:40], "example": example}
        )
    return float(found[1].replace(",", "") + (found[2] or "")) * by


def finished(project: Project, dataset: Dataset | None) -> QuerySet[Run]:
    """Measured models at hand: what charts and rankings of a project are about."""
    runs = Run.objects.shown().filter(project=project, status=Run.Status.SUCCEEDED, accuracy__isnull=False)
    return runs.filter(dataset=dataset) if dataset else runs


def models(
    project: Project, dataset: Dataset | None, cost: str, limit: float | None = None, metric: str = "top-1"
) -> Models:
    """All models of a project (on one dataset), thinned to what the eye can tell apart."""
    column = COSTS[cost].column
    trained = (Run.Purpose.DISTIL, Run.Purpose.CONTROL)
    rows = finished(project, dataset).filter(purpose__in=trained, **{f"{column}__gt": 0}).order_by()
    kinds: dict[str, list[Point]] = {kind: [] for kind in trained}
    taught = set()
    for pk, purpose, accuracy, value, teacher in rows.values_list(
        "pk", "purpose", "accuracy", column, "teacher"
    ):
        kinds[purpose].append(Point(float(value), accuracy, "", pk))
        taught.add(teacher)
    kept = {kind: thinned(points) for kind, points in kinds.items()}
    names = dict(_names([point.pk for points in kept.values() for point in points]))
    named = {
        kind: [p._replace(name=names[p.pk]) for p in points if p.pk in names] for kind, points in kept.items()
    }
    total = sum(map(len, kinds.values()))
    return Models(
        students=named[Run.Purpose.DISTIL],
        controls=named[Run.Purpose.CONTROL],
        teachers=teachers(Teacher.objects.filter(pk__in=taught - {None}), cost),
        metric=metric,
        dataset=dataset.name if dataset else "",
        left_out=total - sum(map(len, kept.values())),
        limit=limit,
    )


def _names(keys: list[int]) -> Iterable[tuple[int, str]]:
    """In pieces: a statement takes only so many parameters."""
    for begin in range(0, len(keys), 500):
        yield from Run.objects.filter(pk__in=keys[begin : begin + 500]).values_list("pk", "name")


def teachers(found: Iterable[Teacher], cost: str) -> list[Point]:
    """Those that have been measured."""
    key = COSTS[cost].of_teacher
    measured = [(one.metrics.get(key), one.score, one.name, one.pk) for one in found]
    return [Point(float(x), float(y), name, pk) for x, y, name, pk in measured if x and y is not None]


def front_of(found: Sequence[Point]) -> list[Point]:
    """Those that nothing smaller equals, from small to large."""
    front: list[Point] = []
    for point in sorted(found, key=lambda p: (p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def thinned(found: Sequence[Point]) -> list[Point]:
    """Of models whose marks would lie on each other the best one; the front is always whole."""
    if len(found) <= CELLS[0]:
        return list(found)
    left, right = (math.log(edge(p.cost for p in found)) for edge in (min, max))
    low, high = (edge(p.accuracy for p in found) for edge in (min, max))
    across, up = CELLS[0] / ((right - left) or 1), CELLS[1] / ((high - low) or 1)
    best: dict[tuple[int, int], Point] = {}
    for point in found:
        cell = int((math.log(point.cost) - left) * across), int((point.accuracy - low) * up)
        held = best.get(cell)
        if held is None or (-point.accuracy, point.cost) < (-held.accuracy, held.cost):
            best[cell] = point
    return list(dict.fromkeys([*best.values(), *front_of(found)]))


def best(project: Project, dataset: Dataset | None, cost: str, limit: float | None, most: int) -> list[int]:
    """The keys of the best distilled students that cost no more than `limit`; the cheaper one where two are
    equally good."""
    column = COSTS[cost].column
    found = finished(project, dataset).filter(purpose=Run.Purpose.DISTIL)
    if limit is not None:
        found = found.filter(**{f"{column}__lte": limit})
    return list(found.order_by("-accuracy", column, "pk").values_list("pk", flat=True)[:most])


def quartiles(project: Project, dataset: Dataset | None, cost: str) -> list[float]:
    """Limits worth a click: below each lie a quarter, a half, three quarters of the students. Rounded up, so
    that the model at the edge is within."""
    column = COSTS[cost].column
    found = finished(project, dataset).filter(purpose=Run.Purpose.DISTIL, **{f"{column}__gt": 0})
    values = sorted(found.order_by().values_list(column, flat=True))
    if not values:
        return []
    edges = (float(values[min(len(values) - 1, len(values) * part // 4)]) for part in (1, 2, 3))
    return sorted({rounded_up(edge) for edge in edges} - {rounded_up(float(values[-1]))})


def rounded_up(value: float) -> float:
    """To two significant digits: 78,042 becomes 79,000."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(round(value / step, 6)) * step:.6g}")
