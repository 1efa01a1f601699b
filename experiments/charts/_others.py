"""Series that no chart file draws: one plain chart each, in a section of their prefix. Nothing is hidden."""

from __future__ import annotations

from django.utils.translation import gettext as _

from ._parts import Figure, View, curve, layout


def section(name: str) -> str:
    """grad/norm → grad; norm → Other series"""
    prefix, found, _rest = name.partition("/")
    return prefix if found else _("Other series")


def figure(view: View, name: str) -> Figure:
    """The series `name` of every run of the page that has it."""
    if view.scope == "compare":
        traces = view.overlaid(name)
    else:
        traces = [curve(view.run, name, label=name, color="series-1"), *view.of_control(name)]
    made = layout(name.rpartition("/")[2], ticks="~g", hover=".4~g", log=True)
    if name.startswith("system/"):
        made["meta"]["time"] = True
    return {"data": traces, "layout": made}
