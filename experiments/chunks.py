"""A chunk of points: as arrays, as bytes, and as the minimum and maximum of its buckets.

Values are stored as float64: a table or a download shows the very number the engine logged, and float32
values cost little more, for zstd removes their zero bytes once the bytes are laid out plane by plane.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

CHUNK = 4096
BUCKET = 64
UPWARDS = 2 * CHUNK // BUCKET  # points a full chunk puts on the next level: a minimum and a maximum a bucket

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


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
def extremes(values: F64, starts: I64) -> I64:
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


def upwards(chunk: Points) -> Points:
    """What a full chunk puts on the next level."""
    return chunk.take(extremes(chunk.value, np.arange(0, CHUNK, BUCKET)))


# --- The levels -------------------------------------------------------------------------------------------
def level_sizes(count: int) -> list[int]:
    """How many points each level of a series of `count` points holds."""
    sizes = [count]
    while sizes[-1] >= CHUNK:
        sizes.append(sizes[-1] // CHUNK * UPWARDS)
    return sizes


def coverage(level: int) -> int:
    """How many logged points one bucket (two points) of a level stands for."""
    return 1 if level == 0 else BUCKET * (BUCKET // 2) ** (level - 1)
