"""The question of the whole trade: how accurate can how small be?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from experiments.comparison import RESULT, Entry, alone, entries
from experiments.frontier import COSTS, Models, Point, front_of, teachers
from experiments.models import Run

from ._parts import Figure, View, layout, percent_axis, symbol

KEY = "pareto"
TITLE = gettext_lazy("Accuracy against size")
SECTION = gettext_lazy("Result")
ORDER = 90
SCOPES = ("pictures", "project")
SERIES: tuple[str, ...] = ()
FAINT = 0.35  # a model that something smaller equals
MANY = 1_000  # marks from which on they are small


def figure(view: View) -> Figure | str:
    cost = view.options.get("x", "parameters")
    found = view.models or compared(view, cost)
    if not found.students and not found.controls:
        return _("Every finished run becomes a point: its accuracy against its size.")
    front = front_of([*found.students, *found.controls])
    on_front = {point.pk for point in front}
    traces = [step_line(front)]
    if view.scope == "pictures":
        traces += each(found, on_front)
    else:
        traces += [
            marks(_("Controls"), found.controls, "control", "circle-open", "runs", on_front),
            marks(_("Students"), found.students, "series-1", "circle", "runs", on_front),
        ]
    traces.append(marks(_("Teachers"), found.teachers, "teacher", "diamond", "teachers", None))
    return {"data": [trace for trace in traces if trace["x"]], "layout": axes(found, cost)}


def compared(view: View, cost: str) -> Models:
    """The finished ones of the runs on the page; with `seeds`, the means of those that are one."""
    ended = [s.run for s in view.subjects if s.run.status == Run.Status.SUCCEEDED]
    found = entries(ended, seeds=True) if view.options.get("seeds") else alone(ended)
    taught = {s.run.teacher_id: s.run.teacher for s in view.subjects if s.run.teacher}
    datasets = {run.dataset.name for run in ended}
    many = {run.dataset.multi_label for run in ended}
    return Models(
        students=points([entry for entry in found if entry.run.purpose == Run.Purpose.DISTIL], cost),
        controls=points([entry for entry in found if entry.run.purpose == Run.Purpose.CONTROL], cost),
        teachers=teachers(taught.values(), cost),
        metric=_("accuracy or mAP") if len(many) > 1 else "mAP" if many == {True} else "top-1",
        dataset=datasets.pop() if len(datasets) == 1 else _("different datasets") if datasets else "",
        colours={entry.run.pk: (entry.colour, entry.dash) for entry in found},
    )


def points(found: Sequence[Entry], cost: str) -> list[Point]:
    accuracy, price = RESULT["accuracy"], RESULT[COSTS[cost].column]
    values = [(entry.value(price), entry.value(accuracy), entry.name, entry.run.pk) for entry in found]
    return [Point(x, y, name, pk) for x, y, name, pk in values if x and y is not None]


def step_line(front: Sequence[Point]) -> Figure:
    """What is the best at each size; one point is no front."""
    front = front if len(front) > 1 else []
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _("Pareto front"),
        "x": [point.cost for point in front],
        "y": [point.accuracy for point in front],
        "line": {"width": 1.6, "shape": "hv"},
        "hoverinfo": "skip",
        "meta": {"color": "series-1"},
    }


def marks(
    label: str, found: Sequence[Point], color: str, shape: str, kind: str, bright: set[int] | None
) -> Figure:
    """Models of one kind. Those not `bright` are faint; None: all are."""
    shown = [1.0 if bright is None or point.pk in bright else FAINT for point in found]
    size = 6 if len(found) > MANY else 9
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [point.cost for point in found],
        "y": [point.accuracy for point in found],
        "text": [point.name for point in found],
        "customdata": [point.pk for point in found],
        "marker": {"size": size, "symbol": shape, "line": {"width": 1.5}, "opacity": shown},
        "hovertemplate": "%{text}<br>%{y:.2%} · %{x:.3~s}<extra></extra>",
        "meta": {"color": color, "opens": kind},
    }


def each(found: Models, on_front: set[int]) -> Iterator[Figure]:
    """A mark a run in its own colour, so that the list of runs is the legend."""
    open_ones = {point.pk for point in found.controls}
    for point in [*found.students, *found.controls]:
        colour, dash = found.colours[point.pk]
        shape = symbol(dash) + ("-open" if point.pk in open_ones else "")
        trace = marks(point.name, [point], colour, shape, "runs", on_front)
        yield trace | {"meta": trace["meta"] | {"run": point.pk}}


def axes(found: Models, cost: str) -> Figure:
    name = _("top-1 accuracy") if found.metric == "top-1" else found.metric
    if found.dataset:
        name = _("%(what)s on %(dataset)s") % {"what": name, "dataset": found.dataset}
    made = layout(name, **percent_axis())
    made["hovermode"] = "closest"
    axis = COSTS[cost]
    title = str(axis.axis)
    if found.left_out:
        title += " · " + ngettext(
            "%(n)s model lies beneath others", "%(n)s models lie beneath others", found.left_out
        ) % {"n": found.left_out}
    made["xaxis"] |= {
        "title": {"text": title},
        "type": "log",
        "tickformat": axis.ticks,
        "hoverformat": ".3~s",
        "dtick": "D2",
    }
    made["shapes"] = [level(point) for point in found.teachers]
    if found.limit:
        made["shapes"].append(edge(found.limit))
    return made


def level(point: Point) -> Figure:
    """The teacher's accuracy across the whole width: what the students are after."""
    line = {"width": 1.2, "dash": "dash"}
    span = {"xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "y0": point.accuracy, "y1": point.accuracy}
    return {"type": "line", "layer": "below", "name": "teacher", "line": line, "opacity": 0.6} | span


def edge(limit: float) -> Figure:
    """The size that is asked for: what counts lies left of it."""
    line = {"width": 1.2, "dash": "dot"}
    span = {"xref": "x", "yref": "y domain", "x0": limit, "x1": limit, "y0": 0, "y1": 1}
    return {"type": "line", "layer": "below", "name": "axis", "line": line} | span
