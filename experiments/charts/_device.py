"""What the device charts share: curves over time, a curve for each graphics processor of each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, colour, curve, layout

SECTION = gettext_lazy("Speed and device")


def figure(view: View, patterns: Sequence[str], title: str, **axes: Any) -> Figure | str:
    """The series of these patterns over the time since the run began; "" where there are none."""
    several = view.scope == "compare"
    traces = [
        curve(
            subject.run,
            name,
            label=f"{subject.run.name} · {label(name)}" if several else label(name),
            color=subject.colour if several else colour(place),
            width=1.4,
        )
        for subject in view.subjects
        for place, name in enumerate(subject.matching(*patterns))
    ]
    if not traces:
        return ""
    made = layout(title, **axes)
    made["meta"]["time"] = True  # its steps are seconds: on every page the axis is time
    return {"data": traces, "layout": made}


def label(name: str) -> str:
    """system/gpu0/power → GPU 0; system/memory → whole machine"""
    part = name.split("/")[1]
    if part.startswith("gpu"):
        return _("GPU %(number)s") % {"number": part.removeprefix("gpu")}
    known = {
        "cpu": _("processors"),
        "memory": _("whole machine"),
        "engine_memory": _("this training"),
    }
    return known.get(part, part)
