"""The charts. One file each: a module with KEY, TITLE, SECTION, ORDER, SCOPES, SERIES and `figure(view)`.

`figure` gives a Plotly figure as a plain dict, or a sentence that says why there is nothing to draw yet, or
"" where the chart has no place on this page. Curves come without points: the page fetches what it shows of
the series named in a trace's `meta` and appends what arrives live. Colours are names of the page's colours
(`meta.color`, a shape's `name`), because the page knows whether it is dark. A module with `title(view)` names
its chart by what the page shows. Series that no file draws have a plain chart each (`_others.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from . import _marks, _others
from ._parts import Figure, Scope, Subject, View

__all__ = ["Chart", "Figure", "Subject", "View", "card", "charts", "claims", "drawn"]


@dataclass(frozen=True)
class Chart:
    key: str
    title: Callable[[View], str]
    section: str
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
    found = [_chart(import_module(f"{__name__}.{name}")) for name in names]
    return {chart.key: chart for chart in sorted(found, key=lambda chart: (chart.order, chart.key))}


def _chart(module: Any) -> Chart:
    title = getattr(module, "title", lambda view: module.TITLE)
    section = getattr(module, "SECTION", "")  # a picture that stands alone needs none
    return Chart(module.KEY, title, section, module.ORDER, module.SCOPES, module.SERIES, module.figure)


def claims(name: str) -> bool:
    """Whether some chart file draws series of this name."""
    return any(fnmatchcase(name, pattern) for chart in charts().values() for pattern in chart.series)


def drawn(view: View) -> list[dict[str, Any]]:
    """The charts of a page, as its scripts read them."""
    cards = list(_own(view))
    if view.scope in ("run", "compare"):
        cards += _rest(view, cards)
    marks = _marks.marks(view.run) if view.scope == "run" else []
    for figure in _curves(cards):
        figure["layout"]["meta"]["marks"] = marks
    return cards


def _curves(cards: list[dict[str, Any]]) -> Iterator[Figure]:
    return (card["figure"] for card in cards if card["kind"] == "curves" and card["figure"])


def _own(view: View) -> Iterator[dict[str, Any]]:
    for chart in charts().values():
        figure = chart.figure(view) if view.scope in chart.scopes else ""
        if figure != "":
            yield _card(chart, view, figure)


def card(key: str, view: View) -> dict[str, Any]:
    """One chart alone, as the page's scripts read it."""
    chart = charts()[key]
    return _card(chart, view, chart.figure(view))


def _card(chart: Chart, view: View, figure: Figure | str) -> dict[str, Any]:
    empty = isinstance(figure, str)
    return {
        "key": chart.key,
        "title": str(chart.title(view)),
        "section": str(chart.section),
        "kind": chart.kind,
        "figure": None if empty else figure,
        "empty": figure if empty else "",
    }


def _rest(view: View, cards: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What no chart shows. Of series that a file claims but not here, such as a term of the objective on a
    page of several runs, only those that change.
    """
    shown = {trace["meta"]["series"] for figure in _curves(cards) for trace in figure["data"]}
    names = {name for subject in view.subjects for name in subject.names} - shown
    varying = {name for subject in view.subjects for name in subject.varying}
    several = view.scope == "compare"
    for name in sorted(names, key=lambda name: ("/" not in name, name)):
        if claims(name) and not (several and name in varying):
            continue
        card = {"key": f"series:{name}", "title": name, "section": _others.section(name)}
        yield card | {"kind": "curves", "figure": _others.figure(view, name), "empty": ""}
