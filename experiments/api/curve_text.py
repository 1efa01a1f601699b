"""Curves as JSON text, written straight from the arrays: a page of ten curves is 60,000 numbers.

Where every point is there, it is written in full. An envelope is for the eye: its values are written as
finely as the chart of the window can show, its times to the ten-thousandth of the window.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping

import numpy as np
from django.http import HttpRequest, HttpResponse

from experiments.chunks import F64
from experiments.metric_store import View

LEVEL = 3  # of gzip: half the time of 6, a twentieth more bytes
SMALL = 1024  # bytes that are not worth it
NULLS = (("-inf", "null"), ("inf", "null"), ("nan", "null"))
EYE = 5  # significant digits of an envelope's values, at least


def curve(view: View) -> str:
    """As schemas.Curve: {exact: …, s: […], v: […], w: […], odd: […]}."""
    points = view.points
    steps = ",".join(map(str, points.step.tolist()))
    values = exactly(points.value) if view.exact else to_the_eye(points.value)
    odd = json.dumps(view.odd, separators=(",", ":"))
    wall = times(points.wall, view.exact)
    return f'{{"exact":{json.dumps(view.exact)},"s":[{steps}],"v":[{values}],"w":[{wall}],"odd":{odd}}}'


def exactly(values: F64) -> str:
    """Nine digits tell any float32 from its neighbours; what is no float32 needs more."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32).astype(np.float64)
    if np.array_equal(single, values, equal_nan=True):
        return _numbers("%.9g", values)
    return _without_nulls(",".join(map(repr, values.tolist())))


def to_the_eye(values: F64) -> str:
    """More digits where all values lie close together, far from zero."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return _numbers("%.1g", values)
    span, largest = float(np.ptp(finite)), float(np.abs(finite).max())
    more = math.ceil(math.log10(largest / span)) if 0 < span < largest else 0
    return _numbers(f"%.{min(17, EYE + more)}g", values)


def times(wall: F64, exact: bool) -> str:
    """To the millisecond; of an envelope as finely as the window needs."""
    span = float(wall[-1] - wall[0]) if len(wall) else 0.0
    digits = 3 if exact else min(3, max(0, 4 - math.ceil(math.log10(max(span, 1e-9)))))
    return _numbers(f"%.{digits}f", wall)


def _numbers(form: str, values: F64) -> str:
    """One formatting for all of them: several times as fast as one each."""
    return _without_nulls(",".join([form] * len(values)) % tuple(values.tolist()))


def _without_nulls(text: str) -> str:
    for word, null in NULLS:
        text = text.replace(word, null)
    return text


def answer(request: HttpRequest, text: str) -> HttpResponse:
    """JSON, compressed for whoever takes it so."""
    body = text.encode()
    response = HttpResponse(content_type="application/json; charset=utf-8")
    response["Vary"] = "Accept-Encoding, Cookie"
    if len(body) > SMALL and "gzip" in request.headers.get("Accept-Encoding", ""):
        body = gzip.compress(body, LEVEL, mtime=0)
        response["Content-Encoding"] = "gzip"
    response.content = body
    return response


def mapping(parts: Mapping[str, str]) -> str:
    """Names and what stands behind each, as JSON already."""
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in parts.items()) + "}"
