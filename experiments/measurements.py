"""How the engine's measurements of a network are read; those of earlier versions have fewer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCORE_SERIES = ("val/map", "val/top1")  # a run has one of them: what is measured each epoch and ranks it
SYSTEM = "system/"  # begins the names of what the machine does; their step is a second since the run's start
UNITS = {
    "throughput": "samples/s",
    "cpu": "%",
    "memory": "bytes",
    "engine_memory": "bytes",
    "utilisation": "%",
    "temperature": "°C",
    "power": "W",
}
Measured = Mapping[str, Any] | None


def of_training(series: str) -> bool:
    """Whether its step is one of training, which goes back when the run does; the machine's time does not."""
    return not series.startswith(SYSTEM)


def unit(series: str) -> str:
    """Of a series' values, where it is known: throughput's and the machine's."""
    if series == "throughput" or not of_training(series):
        return UNITS.get(series.rpartition("/")[2], "")
    return ""


def score(network: Measured) -> float | None:
    """What runs are ranked by: top-1, or mean average precision for multi-label data."""
    found = network or {}
    value = found.get("score", found.get("top1"))
    return None if value is None else float(value)


def is_multi_label(network: Measured) -> bool:
    return (network or {}).get("map") is not None


def per_class(network: Measured) -> list[float | None]:
    """The accuracy on each class, or each label's average precision. None: it has no samples."""
    found = network or {}
    return list(found.get("per_class") or found.get("average_precision") or [])


def best_validation(summaries: Mapping[str, Any]) -> float | None:
    """The best score so far, from the summaries of a run's series."""
    for name in SCORE_SERIES:
        if name in summaries:
            best = summaries[name].get("best")
            return None if best is None else float(best)
    return None
