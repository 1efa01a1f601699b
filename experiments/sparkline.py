"""A run's course as a line of few points, drawn by the server, for lists of what goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from . import metric_store
from .models import Run, Series

WIDTH, HEIGHT, EDGE = 96, 24, 2
# What is drawn, the first that has two points.
COURSES: dict[str, Promise] = {
    "val/top1": _("Validation accuracy so far"),
    "val/map": _("Validation mAP so far"),
    "loss/total": _("Loss so far"),
}


@dataclass(frozen=True)
class Spark:
    """`points` of an SVG polyline in a box of WIDTH × HEIGHT; `label` says what it is."""

    points: str
    label: Promise
    width: int = WIDTH
    height: int = HEIGHT


def of_runs(runs: Sequence[Run]) -> dict[int, Spark]:
    """For those of the runs that have a course yet. Three or four statements, however many runs."""
    found = Series.objects.filter(run__in=runs, name__in=COURSES, count__gte=2)
    chosen: dict[int, Series] = {}
    for name in COURSES:
        for one in found:
            if one.name == name:
                chosen.setdefault(one.run_id, one)
    views = metric_store.views(list(chosen.values()), width=WIDTH // 4)
    sparks = {}
    for (run, series), view in zip(chosen.items(), views, strict=True):
        drawn = line(view.points)
        if drawn:
            sparks[run] = Spark(drawn, COURSES[series.name])
    return sparks


def line(points: metric_store.Points) -> str:
    """The finite points, fitted into the box; "" where there are not two."""
    finite = np.isfinite(points.value)
    x, y = points.step[finite].astype(float), points.value[finite]
    if len(x) < 2:
        return ""
    across = EDGE + (x - x[0]) / ((x[-1] - x[0]) or 1) * (WIDTH - 2 * EDGE)
    span = float(y.max() - y.min())
    up = EDGE + (y.max() - y) / span * (HEIGHT - 2 * EDGE) if span else np.full(len(y), HEIGHT / 2)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))
