"""Each class's accuracy, or label's average precision: student, teacher and control by the same code."""

from __future__ import annotations

from math import inf

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments import measurements

from ._parts import Figure, View, class_names, layout, percent_axis

KEY = "per-class"
TITLE = gettext_lazy("Accuracy per class")
SECTION = gettext_lazy("Results")
ORDER = 70
SCOPES = ("run",)
SERIES: tuple[str, ...] = ()
SHOWN = 20
Values = list[float | None]


def figure(view: View) -> Figure | str:
    run = view.run
    student = run.results.get("student")
    students = measurements.per_class(student)
    if not students:
        return "" if run.ended else _("Measured when the run has finished.")
    rows = {"student": students, "teacher": measurements.per_class(run.results.get("teacher"))}
    if view.control:
        rows["control"] = measurements.per_class(view.control.run.results.get("student"))
    rows = {who: values for who, values in rows.items() if len(values) == len(students)}
    names = class_names(run, len(students))
    chosen, title = choose(rows, len(students))
    labels = {
        "student": _("Teacher") if run.makes_id else _("Student"),
        "teacher": _("Teacher"),
        "control": _("Control"),
    }
    colours = {"student": "series-1", "teacher": "teacher", "control": "control"}
    traces = [
        bars(labels[who], colours[who], names, rows[who], chosen)
        for who in ("teacher", "student", "control")
        if who in rows
    ]
    what = _("average precision") if measurements.is_multi_label(student) else _("accuracy")
    axes = layout(what, **percent_axis(), from_zero=True)
    axes |= {"barmode": "group", "bargap": 0.3, "bargroupgap": 0.08}
    axes["xaxis"] |= {"title": {"text": title}, "type": "category", "tickmode": "linear", "dtick": 1}
    return {"data": traces, "layout": axes}


def choose(rows: dict[str, Values], count: int) -> tuple[list[int], str]:
    """All classes, or those where the student is furthest from its teacher (alone: where it is weakest).

    A class without samples comes last.
    """
    if count <= SHOWN:
        return list(range(count)), _("class")
    student, teacher = rows["student"], rows.get("teacher")

    def place(i: int) -> float:
        own, other = student[i], teacher[i] if teacher else None
        if own is None:
            return inf
        return -abs(own - other) if other is not None else own if teacher is None else 0.0

    shown = sorted(range(count), key=place)[:SHOWN]
    words = {"n": SHOWN, "all": count}
    if teacher:
        return shown, _("the %(n)s of %(all)s classes where student and teacher differ most") % words
    return shown, _("the %(n)s weakest of %(all)s classes") % words


def bars(label: str, color: str, names: list[str], values: Values, chosen: list[int]) -> Figure:
    return {
        "type": "bar",
        "name": label,
        "x": [names[i] for i in chosen],
        "y": [values[i] for i in chosen],
        "meta": {"color": color},
    }
