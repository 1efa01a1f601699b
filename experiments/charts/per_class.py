"""Accuracy on each class: student beside teacher and control, measured by the same code."""

from __future__ import annotations

from ._parts import Figure, View, layout, percent_axis

KEY = "per-class"
TITLE = "Accuracy per class"
ORDER = 70
SCOPES = ("run",)
SERIES: tuple[str, ...] = ()
SHOWN = 20


def figure(view: View) -> Figure | str:
    run = view.run
    students = (run.results.get("student") or {}).get("per_class")
    if not students:
        return "" if run.ended else "Measured when the run has finished."
    rows = {"student": students, "teacher": (run.results.get("teacher") or {}).get("per_class")}
    if view.control:
        rows["control"] = (view.control.run.results.get("student") or {}).get("per_class")
    rows = {who: values for who, values in rows.items() if values and len(values) == len(students)}
    names = [str(name) for name in run.dataset.classes]
    if len(names) != len(students):
        names = [str(i) for i in range(len(students))]
    chosen, title = choose(rows, len(students))
    labels = {"student": "Teacher" if run.makes_id else "Student", "teacher": "Teacher", "control": "Control"}
    colours = {"student": "series-1", "teacher": "teacher", "control": "control"}
    traces = [
        bars(labels[who], colours[who], names, rows[who], chosen)
        for who in ("teacher", "student", "control")
        if who in rows
    ]
    axes = layout("accuracy", **percent_axis(), from_zero=True)
    axes |= {"barmode": "group", "bargap": 0.3, "bargroupgap": 0.08}
    axes["xaxis"] |= {"title": {"text": title}, "type": "category", "tickmode": "linear", "dtick": 1}
    return {"data": traces, "layout": axes}


def choose(rows: dict[str, list[float]], count: int) -> tuple[list[int], str]:
    """All classes, or those where the student is furthest from its teacher (alone: where it is weakest)."""
    if count <= SHOWN:
        return list(range(count)), "class"
    student, teacher = rows["student"], rows.get("teacher")
    if teacher:
        order = sorted(range(count), key=lambda i: -abs(student[i] - teacher[i]))
        return order[:SHOWN], f"the {SHOWN} of {count} classes where student and teacher differ most"
    return sorted(range(count), key=lambda i: student[i])[:SHOWN], f"the {SHOWN} weakest of {count} classes"


def bars(label: str, color: str, names: list[str], values: list[float], chosen: list[int]) -> Figure:
    return {
        "type": "bar",
        "name": label,
        "x": [names[i] for i in chosen],
        "y": [values[i] for i in chosen],
        "meta": {"color": color},
    }
