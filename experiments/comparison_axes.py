"""What runs may be held against: their results and the settings in which they differ, as axes of a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import run_config
from .comparison import MEASURES, Entry, Measure

Value = float | str | None


@dataclass(frozen=True)
class Axis:
    """A value of every entry: a number, a word, or None where it has none."""

    key: str
    label: str
    values: Sequence[Value]
    measure: Measure | None = None  # of a result

    @property
    def numeric(self) -> bool:
        return all(not isinstance(value, str) for value in self.values)

    @property
    def positive(self) -> bool:
        """Can stand on a logarithmic axis."""
        return self.numeric and all(value is None or float(value) > 0 for value in self.values)

    @property
    def ticks(self) -> str:
        return self.measure.ticks if self.measure else "~g"

    def show(self, value: Value) -> str:
        if self.measure:
            return self.measure.show(value)
        return run_config.show(value)


def results(found: Sequence[Entry]) -> list[Axis]:
    """The measured ones."""
    axes = [Axis(one.key, str(one.label), [entry.value(one) for entry in found], one) for one in MEASURES]
    return [axis for axis in axes if any(value is not None for value in axis.values)]


def settings(found: Sequence[Entry]) -> list[Axis]:
    """Those that differ, in the order of a configuration."""
    keys = list(dict.fromkeys(key for entry in found for key in entry.config))
    axes = [_setting(key, [entry.config.get(key) for entry in found]) for key in keys]
    return [axis for axis in axes if len(set(axis.values)) > 1]


def _setting(key: str, raw: list[Any]) -> Axis:
    """Numbers stay numbers where all are; else every value is a word."""
    label = run_config.named(key)
    if all(value is None or _is_number(value) for value in raw):
        return Axis(key, label, [None if value is None else float(value) for value in raw])
    words = [None if value in (None, "") else run_config.show(value) for value in raw]
    return Axis(key, label, words)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def axes(found: Sequence[Entry]) -> dict[str, Axis]:
    """All of them by key; a result's name comes before a setting's."""
    return {axis.key: axis for axis in [*settings(found), *results(found)]}
