"""Where a series is not finite: ranges [first step, last step, "nan" | "inf" | "-inf"], by their first step.

Neighbouring points of one kind are one range, so that a lone NaN among a million points and a run that has
diverged for good are both a few bytes, and a chart of any width can mark them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 500  # ranges a series keeps; beyond that those nearest each other become one
KINDS = ("nan", "inf", "-inf")
Range = list[Any]  # [first step, last step, kind]: as it is stored and sent


def kinds(value: NDArray[np.float64]) -> NDArray[np.int8]:
    """Of each value: 0 where it is finite, else 1 + its place in KINDS."""
    return np.select([np.isnan(value), np.isposinf(value), np.isneginf(value)], [1, 2, 3], 0).astype(np.int8)


def ranges(step: NDArray[np.int64], value: NDArray[np.float64]) -> list[Range]:
    """Those of points that follow each other."""
    if np.isfinite(value).all():
        return []
    kind = kinds(value)
    starts = np.flatnonzero(np.diff(kind, prepend=np.int8(-1)))
    ends = np.append(starts[1:], len(kind)) - 1
    return [
        [int(step[first]), int(step[last]), KINDS[kind[first] - 1]]
        for first, last in zip(starts.tolist(), ends.tolist(), strict=True)
        if kind[first]
    ]


def marks(step: NDArray[np.int64], value: NDArray[np.float64]) -> list[list[Any]]:
    """[step, kind] of each point that is not finite, as live frames carry them."""
    return [
        [int(step[at]), KINDS[kind - 1]]
        for at, kind in enumerate(kinds(value).tolist() if not np.isfinite(value).all() else ())
        if kind
    ]


def added(known: list[Range], new: list[Range], reached: int, begins: int) -> list[Range]:
    """With the ranges of a block that begins at step `begins`, right behind the point of step `reached`."""
    if not new:
        return known
    merged = [list(one) for one in known]
    if new[0][0] == begins:
        open_one = next((one for one in merged if one[1] == reached and one[2] == new[0][2]), None)
        if open_one is not None:
            open_one[1], new = new[0][1], new[1:]
    return coarser(merged + new)


def coarser(known: list[Range]) -> list[Range]:
    """At most MOST. Those of a kind that are nearest each other are joined: what lay between counts in.

    Half of them are kept, so that not every further point has to do it again.
    """
    if len(known) <= MOST:
        return known
    gaps = []  # (steps between, which range, the one of its kind before it)
    last: dict[str, int] = {}
    for at, (first, _, kind) in enumerate(known):
        if kind in last:
            gaps.append((first - known[last[kind]][1], at, last[kind]))
        last[kind] = at
    gone = {at: before for _, at, before in sorted(gaps)[: len(known) - MOST // 2]}
    for at in sorted(gone, reverse=True):  # from behind, so that chains fold into their first
        before = known[gone[at]]
        before[1] = max(before[1], known[at][1])
    return [one for at, one in enumerate(known) if at not in gone]


def until(known: list[Range], last_step: int) -> list[Range]:
    """Those of a series whose last point is now that of `last_step`."""
    return [[first, min(last, last_step), kind] for first, last, kind in known if first <= last_step]


def between(known: list[Range], first: int | None, last: int | None) -> list[Range]:
    """Those that reach into a window of steps."""
    return [one for one in known if (first is None or one[1] >= first) and (last is None or one[0] <= last)]
