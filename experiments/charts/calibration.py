"""Whether a network is right as often as it is sure: reliability of student, teacher and control."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments import measurements

from ._parts import Figure, View, layout

KEY = "calibration"
TITLE = gettext_lazy("Calibration")
SECTION = gettext_lazy("Results")
ORDER = 74
SCOPES = ("run",)
SERIES: tuple[str, ...] = ()
Network = dict[str, Any]


def figure(view: View) -> Figure | str:
    run = view.run
    student: Network = run.results.get("student") or {}
    if not student:
        return "" if run.ended else _("Measured when the run has finished.")
    if not student.get("reliability"):
        return ""  # measured by an earlier version
    control: Network = (view.control.run.results.get("student") if view.control else None) or {}
    networks = (
        (_("Teacher"), "teacher", "dash", run.results.get("teacher") or {}),
        (_("Control"), "control", "dot", control),
        (_("Teacher") if run.makes_id else _("Student"), "series-1", "solid", student),
    )
    many = measurements.is_multi_label(student)
    title = _("share of labels that are there") if many else _("accuracy")
    axes = layout(title, ticks=".0%", range=[0, 1.02])
    axes["hovermode"] = "closest"
    axes["xaxis"] |= {
        "title": {"text": _("predicted probability") if many else _("confidence")},
        "tickformat": ".0%",
        "range": [0, 1.02],
    }
    span = {"xref": "x", "yref": "y", "x0": 0, "y0": 0, "x1": 1, "y1": 1, "layer": "below"}
    axes["shapes"] = [{"type": "line", "name": "axis", "line": {"width": 1, "dash": "dot"}} | span]
    traces = [line(*network) for network in networks if network[-1].get("reliability")]
    return {"data": traces, "layout": axes}


def line(label: str, color: str, dash: str, network: Network) -> Figure:
    """A point a bin, at its mean confidence; the larger, the more predictions lie in it."""
    bins = [one for one in network["reliability"] if one]
    total = sum(one["count"] for one in bins)
    hover = _("{x} sure, {y} right<br>{n} predictions")
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{label}, ECE {100 * network['ece']:.1f}\u202f%",
        "x": [one["confidence"] for one in bins],
        "y": [one["accuracy"] for one in bins],
        "customdata": [one["count"] for one in bins],
        "line": {"width": 1.6, "dash": dash},
        "marker": {"size": [round(4 + 12 * (one["count"] / total) ** 0.5, 1) for one in bins]},
        "hovertemplate": hover.format(x="%{x:.1%}", y="%{y:.1%}", n="%{customdata:,}")
        + f"<extra>{label}</extra>",
        "meta": {"color": color},
    }
