"""Any two values of the runs against each other: results, and the settings that differ."""

from __future__ import annotations

import html
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments.comparison import Entry, entries
from experiments.comparison_axes import Axis, Value, axes

from ._parts import Figure, View, layout, symbol

KEY = "scatter"
TITLE = gettext_lazy("Two values against each other")
SECTION = gettext_lazy("Result")
ORDER = 91
SCOPES = ("pictures",)
SERIES: tuple[str, ...] = ()


def figure(view: View) -> Figure | str:
    found = entries([subject.run for subject in view.subjects], bool(view.options.get("seeds")))
    offered = axes(found)
    across, up = chosen(offered, view.options)
    if across is None or up is None:
        return _("Once runs have ended, any two of their values can be held against each other.")
    pairs = zip(found, across.values, up.values, strict=True)
    traces = [mark(entry, (x, across), (y, up)) for entry, x, y in pairs if x is not None and y is not None]
    if not traces:
        return _("No run has both of these values.")
    made = layout(up.label, ticks=up.ticks if up.numeric else "")
    made["hovermode"] = "closest"
    made["xaxis"] |= {"title": {"text": across.label}} | scale(across, view.options.get("logx"))
    made["yaxis"] |= scale(up, view.options.get("logy"))
    return {"data": traces, "layout": made}


def chosen(offered: dict[str, Axis], options: dict[str, str]) -> tuple[Axis | None, Axis | None]:
    """The axes asked for; else accuracy over parameters, else what there is."""
    across = (
        offered.get(options.get("x", "")) or offered.get("parameters") or next(iter(offered.values()), None)
    )
    up = (
        offered.get(options.get("y", "")) or offered.get("accuracy") or next(reversed(offered.values()), None)
    )
    return across, up


def scale(axis: Axis, log: str | None) -> dict[str, Any]:
    """Numbers on a line, or on a logarithmic one where none is zero or less; words side by side."""
    if not axis.numeric:
        return {"type": "category", "tickformat": "", "automargin": True}
    held = {value for value in axis.values if value is not None}
    only = {"tickvals": list(held)} if len(held) == 1 else {}  # else hairs are split around it
    return {"type": "log" if log and axis.positive else "linear", "tickformat": axis.ticks} | only


def mark(entry: Entry, across: tuple[Value, Axis], up: tuple[Value, Axis]) -> Figure:
    """A run; over several seeds with the standard deviation of what was measured."""
    words = "<br>".join(
        f"{html.escape(axis.label)}: {html.escape(axis.show(value))}" for value, axis in (across, up)
    )
    made: Figure = {
        "type": "scatter",
        "mode": "markers",
        "name": entry.name,
        "x": [across[0]],
        "y": [up[0]],
        "text": [entry.name],
        "customdata": [entry.run.pk],
        "marker": {"size": 10, "symbol": symbol(entry.dash), "line": {"width": 1.5}},
        "hovertemplate": f"%{{text}}<br>{words}<extra></extra>",
        "meta": {"color": entry.colour, "opens": "runs", "run": entry.run.pk},
    }
    for name, (_value, axis) in (("error_x", across), ("error_y", up)):
        deviation = entry.deviation(axis.measure) if axis.measure else None
        if deviation:
            made[name] = {"type": "data", "array": [deviation], "thickness": 1, "width": 3}
    return made
