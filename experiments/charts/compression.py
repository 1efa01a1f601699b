"""What distilling saved: teacher ÷ student, for everything that was measured on both.

Of throughput more is better: student ÷ teacher. The sizes as fp16 and int8 are of files, not of accuracies.
"""

from __future__ import annotations

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, layout

KEY = "compression"
TITLE = gettext_lazy("Smaller and faster than the teacher")
SECTION = gettext_lazy("Results")
ORDER = 80
SCOPES = ("run",)
SERIES: tuple[str, ...] = ()
NAMES = {
    "parameters": gettext_lazy("Parameters"),
    "bytes": gettext_lazy("Size on disk"),
    "bytes_fp16": gettext_lazy("Size as fp16"),
    "bytes_int8": gettext_lazy("Size as int8"),
    "flops": gettext_lazy("FLOPs"),
    "peak_memory": gettext_lazy("Peak memory"),
    "latency": gettext_lazy("Latency"),
    "throughput": gettext_lazy("Throughput"),
}


def figure(view: View) -> Figure | str:
    run = view.run
    if run.teacher_id is None:
        return ""
    ratios = run.compression()
    if not ratios:
        return "" if run.ended else _("Measured when the run has finished.")
    shown = [name for name in NAMES if name in ratios]
    trace = {
        "type": "bar",
        "orientation": "h",
        "name": _("times smaller or faster"),
        "x": [ratios[name] for name in shown],
        "y": [str(NAMES[name]) for name in shown],
        "text": [f"{ratios[name]:.3g}×" for name in shown],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": _("{what}: {n} times").format(what="%{y}", n="%{x:.4~g}") + "<extra></extra>",
        "meta": {"color": "series-2"},
    }
    axes = layout("")
    axes |= {"hovermode": "closest", "bargap": 0.45}
    axes["xaxis"] |= {
        "title": {"text": _("times smaller or faster")},
        "rangemode": "tozero",
        "ticksuffix": "×",
        "range": [0, max([*ratios.values(), 1.0]) * 1.18],
    }
    axes["yaxis"] |= {"autorange": "reversed", "type": "category", "showgrid": False}
    axes["yaxis"] |= {"tickmode": "linear", "dtick": 1}  # every bar has its name
    # Equal to the teacher: bars that end left of this line got worse.
    one = {
        "type": "line",
        "name": "axis",
        "xref": "x",
        "x0": 1,
        "x1": 1,
        "yref": "y domain",
        "y0": 0,
        "y1": 1,
    }
    axes["shapes"] = [one | {"line": {"width": 1, "dash": "dot"}}]
    return {"data": [trace], "layout": axes}
