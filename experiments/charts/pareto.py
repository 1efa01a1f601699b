"""The question of the whole trade: how accurate can how small be?"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.models import Run, Teacher

from ._parts import Figure, Subject, View, layout, percent_axis

KEY = "pareto"
TITLE = "Accuracy against size"
ORDER = 90
SCOPES = ("compare", "project")
SERIES: tuple[str, ...] = ()
COSTS = {
    "parameters": ("parameters", "~s"),
    "bytes": ("bytes on disk", "~s"),
    "flops": ("FLOPs", "~s"),
    "latency_ms": ("latency (ms)", "~g"),
}
TEACHER_COSTS = {"latency_ms": "latency_p50_ms"}
Point = tuple[float, float, str, int]  # cost, accuracy, name, primary key


def figure(view: View) -> Figure | str:
    cost = view.options.get("x", "parameters")
    ended = [s for s in view.subjects if s.run.status == Run.Status.SUCCEEDED]
    students = points([s for s in ended if s.run.purpose == Run.Purpose.DISTIL], cost)
    controls = points([s for s in ended if s.run.purpose == Run.Purpose.CONTROL], cost)
    if not students and not controls:
        return "Every finished run becomes a point: its accuracy against its size."
    teachers = teacher_points(view.subjects, cost)
    front = front_of([*students, *controls])
    front = front if len(front) > 1 else []  # one point is no front
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [point[0] for point in front],
            "y": [point[1] for point in front],
            "line": {"width": 1.4, "shape": "hv"},
            "hoverinfo": "skip",
            "meta": {"color": "series-1"},
        },
        marks("Controls", controls, "control", "circle-open", "runs"),
        marks("Students", students, "series-1", "circle", "runs"),
        marks("Teachers", teachers, "teacher", "diamond", "teachers"),
    ]
    title, ticks = COSTS[cost]
    datasets = {s.run.dataset.name for s in ended}
    where = f" on {datasets.pop()}" if len(datasets) == 1 else ""
    many = {s.run.dataset.multi_label for s in ended}
    name = "accuracy or mAP" if len(many) > 1 else "mAP" if many == {True} else "top-1 accuracy"
    axes = layout(f"{name}{where}", **percent_axis())
    axes["hovermode"] = "closest"
    axes["xaxis"] |= {
        "title": {"text": title},
        "type": "log",
        "tickformat": ticks,
        "hoverformat": ".3~s",
        "dtick": "D2",
    }
    axes["shapes"] = [level(point) for point in teachers]
    return {"data": [trace for trace in traces if trace["x"]], "layout": axes}


def points(subjects: Sequence[Subject], cost: str) -> list[Point]:
    found = [(getattr(s.run, cost), s.run.accuracy, s.run.name, s.run.pk) for s in subjects]
    return [(float(x), float(y), name, pk) for x, y, name, pk in found if x and y is not None]


def teacher_points(subjects: Sequence[Subject], cost: str) -> list[Point]:
    teachers: dict[int, Teacher] = {
        s.run.teacher_id: s.run.teacher for s in subjects if s.run.teacher and s.run.teacher_id
    }
    key = TEACHER_COSTS.get(cost, cost)
    measured = [(t.metrics.get(key), t.score, t.name, t.pk) for t in teachers.values()]
    return [(float(x), float(y), name, pk) for x, y, name, pk in measured if x and y is not None]


def front_of(found: Sequence[Point]) -> list[Point]:
    """Those that nothing smaller equals, from small to large."""
    front: list[Point] = []
    for point in sorted(found, key=lambda p: (p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def marks(label: str, found: Sequence[Point], color: str, symbol: str, kind: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [point[0] for point in found],
        "y": [point[1] for point in found],
        "text": [point[2] for point in found],
        "customdata": [point[3] for point in found],
        "marker": {"size": 9, "symbol": symbol, "line": {"width": 1.5}},
        "hovertemplate": "%{text}<br>%{y:.2%} at %{x:.3~s}<extra></extra>",
        "meta": {"color": color, "opens": kind},
    }


def level(point: Point) -> Figure:
    """The teacher's accuracy across the whole width: what the students are after."""
    line = {"width": 1.2, "dash": "dash"}
    span = {"xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "y0": point[1], "y1": point[1]}
    return {"type": "line", "layer": "below", "name": "teacher", "line": line, "opacity": 0.6} | span
