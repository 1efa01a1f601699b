"""The charts. One file each: put a module here with KEY, TITLE, ORDER, SCOPES, SERIES and `figure(view)`.

`figure` gives a Plotly figure as a plain dict, or a sentence that says why there is nothing to draw yet, or
"" where the chart has no place on this page. Curves come without points: the page fetches what it shows of
the series named in a trace's `meta` and appends what arrives live. Colours are names of the page's colours
(`meta.color`, a shape's `name`), because the page knows whether it is dark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ._parts import Figure, Scope, Subject, View

__all__ = ["Chart", "Figure", "Subject", "View", "charts", "drawn", "wants"]


@dataclass(frozen=True)
class Chart:
    key: str
    title: str
    order: int
    scopes: tuple[Scope, ...]
    series: tuple[str, ...]
    figure: Callable[[View], Figure | str]

    @property
    def kind(self) -> Literal["curves", "picture"]:
        """Curves are filled by the page from the series; a picture is complete."""
        return "curves" if self.series else "picture"


@cache
def charts() -> dict[str, Chart]:
    """All of them in the order of the page, by listing this folder."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    modules = [import_module(f"{__name__}.{name}") for name in names]
    found = [Chart(m.KEY, m.TITLE, m.ORDER, m.SCOPES, m.SERIES, m.figure) for m in modules]
    return {chart.key: chart for chart in sorted(found, key=lambda chart: (chart.order, chart.key))}


def wants(name: str) -> bool:
    """Whether some chart draws a series of this name."""
    return any(fnmatchcase(name, pattern) for chart in charts().values() for pattern in chart.series)


def drawn(view: View) -> list[dict[str, Any]]:
    """The charts of a page, as its scripts read them."""
    cards = []
    for chart in charts().values():
        figure = chart.figure(view) if view.scope in chart.scopes else ""
        if figure == "":
            continue
        card = {"key": chart.key, "title": chart.title, "kind": chart.kind, "figure": None, "empty": ""}
        cards.append(card | ({"empty": figure} if isinstance(figure, str) else {"figure": figure}))
    return cards
