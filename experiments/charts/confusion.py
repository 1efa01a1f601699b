"""Which classes the student takes for which, and how that differs from its teacher."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ._parts import Figure, View, class_names, layout

KEY = "confusion"
TITLE = gettext_lazy("Confusion")
SECTION = gettext_lazy("Results")
ORDER = 72
SCOPES = ("run",)
SERIES: tuple[str, ...] = ()
SHOWN = 30  # classes; more would be cells of a few pixels
NUMBERED = 12  # classes up to which a cell has room for its count, and each class for its name
Matrix = list[list[int]]  # row: truth, column: prediction


def figure(view: View) -> Figure | str:
    run = view.run
    student: dict[str, Any] = run.results.get("student") or {}
    if not student:
        return "" if run.ended else _("Measured when the run has finished.")
    if student.get("confused"):
        return pairs(student["confused"], class_names(run, len(run.dataset.classes)))
    counts: Matrix | None = student.get("confusion")
    if not counts:
        return ""  # multi-label, or measured by an earlier version
    theirs: Matrix | None = (run.results.get("teacher") or {}).get("confusion")
    if theirs is not None and len(theirs) != len(counts):
        theirs = None
    chosen, title = choose(counts)
    return heatmap(counts, theirs, class_names(run, len(counts)), chosen, title)


def choose(counts: Matrix) -> tuple[list[int], str]:
    """All classes, or those that most mistakes are made on, in the dataset's order."""
    size = len(counts)
    if size <= SHOWN:
        return list(range(size)), _("predicted")
    mistakes = [sum(counts[c]) + sum(row[c] for row in counts) - 2 * counts[c][c] for c in range(size)]
    most = sorted(range(size), key=lambda c: -mistakes[c])[:SHOWN]
    title = _("predicted (the %(n)s of %(all)s classes confused most)") % {"n": SHOWN, "all": size}
    return sorted(most), title


def heatmap(counts: Matrix, theirs: Matrix | None, names: list[str], chosen: list[int], title: str) -> Figure:
    """Coloured by the root of a cell's share of its row: mistakes are few, and are what one looks for."""
    totals = [max(1, sum(row)) for row in counts]
    trace: Figure = {
        "type": "heatmap",
        "name": _("student"),
        "x": [names[c] for c in chosen],
        "y": [names[c] for c in chosen],
        "z": [[round((counts[r][c] / totals[r]) ** 0.5, 4) for c in chosen] for r in chosen],
        "zmin": 0,
        "zmax": 1,
        "text": [[counts[r][c] or "" for c in chosen] for r in chosen],
        "customdata": [[words(counts, theirs, r, c, totals[r]) for c in chosen] for r in chosen],
        "hovertemplate": _("{truth} taken for {guess}").format(truth="%{y}", guess="%{x}")
        + "<br>%{customdata}<extra></extra>",
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "meta": {"color": "series-1"},
    }
    if len(chosen) <= NUMBERED:
        trace["texttemplate"] = "%{text}"
    axes = layout(_("true class"))
    axes["hovermode"] = "closest"
    whole: Figure = {"type": "category", "showgrid": False}
    if len(chosen) <= NUMBERED:
        whole |= {"tickmode": "linear", "dtick": 1}  # of more, the page names as many as it has room for
    axes["xaxis"] |= {"title": {"text": title}} | whole
    axes["yaxis"] |= {"autorange": "reversed"} | whole
    return {"data": [trace], "layout": axes}


def words(counts: Matrix, theirs: Matrix | None, row: int, column: int, total: int) -> str:
    own = counts[row][column]
    text = _("%(n)s of %(all)s") % {"n": own, "all": total} + f" ({100 * own / total:.1f}\u202f%)"
    if theirs is None:
        return text
    other = theirs[row][column]
    difference = f"{own - other:+d}".replace("-", "\u2212") if own != other else _("the same")
    theirs_said = _("teacher %(value)s") % {"value": other}
    return f"{text}<br>{theirs_said} ({difference})"


def pairs(confused: list[list[int]], names: list[str]) -> Figure:
    """Of too many classes for a matrix, the mistakes made most often."""
    shown = confused[:20]
    trace = {
        "type": "bar",
        "orientation": "h",
        "name": _("student"),
        "x": [count for _, _, count in shown],
        "y": [f"{names[truth]} → {names[guess]}" for truth, guess, _ in shown],
        "hovertemplate": _("{what}: {n} times").format(what="%{y}", n="%{x}") + "<extra></extra>",
        "meta": {"color": "series-1"},
    }
    axes = layout(_("true class → predicted"))
    axes |= {"hovermode": "closest", "bargap": 0.3}
    axes["xaxis"] |= {"title": {"text": _("samples")}, "rangemode": "tozero"}
    axes["yaxis"] |= {"autorange": "reversed", "type": "category", "showgrid": False}
    axes["yaxis"] |= {"tickmode": "linear", "dtick": 1}
    return {"data": [trace], "layout": axes}
