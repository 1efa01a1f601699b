"""What the charts share: whose curves are drawn, a curve, the axes, a reference line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from django.utils.translation import gettext as _

from experiments import frontier
from experiments.models import Run

Figure = dict[str, Any]
Scope = Literal["run", "compare", "pictures", "project"]
COLOURS = 20
SCALE = 9  # steps of the scale from little to much, in tokens.css


def colour(index: int) -> str:
    return f"series-{index % COLOURS + 1}"


# The mark of a run beside another one of its colour; the diamond is the teachers'.
SYMBOLS = {"solid": "circle", "dash": "square", "dot": "triangle-up", "dashdot": "cross", "longdash": "star"}


def symbol(dash: str) -> str:
    return SYMBOLS.get(dash, "hexagon")


def step_of_scale(place: float) -> str:
    """The colour of a place between 0 and 1 on the page's scale, which is perceptually even."""
    return f"scale-{1 + min(SCALE - 1, int(place * SCALE))}"


@dataclass(frozen=True)
class Subject:
    """A run on the page, the series it has, and those of them that are not constant."""

    run: Run
    names: tuple[str, ...] = ()
    varying: frozenset[str] = frozenset()
    colour: str = "series-1"
    dash: str = "solid"  # where several runs of a page have one colour

    def matching(self, *patterns: str) -> list[str]:
        """Its series, in the order of the patterns."""
        found = [name for pattern in patterns for name in self.names if fnmatchcase(name, pattern)]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class View:
    """A page with charts: one run (and its control), several runs laid over each other, the pictures of such
    a comparison (each with its own switches in `options`), or a project with its `models`."""

    scope: Scope
    subjects: Sequence[Subject]
    control: Subject | None = None
    options: dict[str, str] = field(default_factory=dict)
    models: frontier.Models | None = None

    @property
    def run(self) -> Run:
        return self.subjects[0].run

    def overlaid(self, name: str) -> list[Figure]:
        """One curve a run, in the run's colour."""
        return [
            curve(subject.run, name, label=subject.run.name, color=subject.colour, dash=subject.dash)
            for subject in self.subjects
            if name in subject.names
        ]

    def of_control(self, name: str) -> Iterator[Figure]:
        """The control's curve, faint behind the student's."""
        if self.control and name in self.control.names:
            yield curve(self.control.run, name, label=_("Control"), color="control", dash="dot", opacity=0.7)


def curve(
    run: Run,
    series: str,
    *,
    label: str,
    color: str,
    dash: str = "solid",
    opacity: float = 1.0,
    width: float = 1.6,
    front: bool = False,
) -> Figure:
    """A trace without points; `meta` tells the page which it wants. `front`: drawn above the others."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label,
        "x": [],
        "y": [],
        "opacity": opacity,
        "line": {"width": width, "dash": dash, "shape": "linear"},
        "connectgaps": False,
        "zorder": 1 if front else 0,
        "meta": {"run": run.pk, "series": series, "color": color},
    }


def layout(
    title: str, *, ticks: str = "", hover: str = "", from_zero: bool = False, log: bool = False, **axis: Any
) -> Figure:
    """Axes of a chart over steps. The page writes the x axis: steps, epochs or time.

    `log`: makes sense on a logarithmic axis.
    """
    yaxis = {
        "title": {"text": title},
        "tickformat": ticks,
        "hoverformat": hover,
        "rangemode": "tozero" if from_zero else "normal",
        "exponentformat": "e",
        "automargin": True,
    }
    return {
        "hovermode": "x unified",
        "meta": {"log": log},
        "showlegend": False,
        "xaxis": {"title": {"text": _("step")}, "automargin": True},
        "yaxis": yaxis | axis,
        "shapes": [],
        "annotations": [],
    }


def class_names(run: Run, count: int) -> list[str]:
    """The dataset's names of `count` classes; their numbers where it has others by now."""
    names = [str(name) for name in run.dataset.classes]
    return names if len(names) == count else [str(place) for place in range(count)]


def percent_axis(*include: float) -> Figure:
    """Accuracies: fractions shown as %, never beyond 0 and 100, with room for the reference lines."""
    return {
        "ticks": ".1~%",
        "hover": ".2%",
        "autorangeoptions": {"clipmin": -0.01, "clipmax": 1.02, "include": list(include)},
    }


def reference_lines(values: dict[str, tuple[str, float]]) -> tuple[list[Figure], list[Figure]]:
    """Horizontal lines {colour name: (label, value)} and their labels, at the left edge where curves are low.

    The upper line carries its label above, the lower one below: two that nearly meet stay readable.
    """
    shapes, notes = [], []
    ordered = sorted(values.items(), key=lambda item: -item[1][1])
    for place, (name, (label, value)) in enumerate(ordered):
        dash = {"teacher": "dash", "control": "dot"}.get(name, "dash")
        line = {"width": 1.4, "dash": dash}
        span = {"xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "y0": value, "y1": value}
        shapes.append({"type": "line", "layer": "below", "name": name, "line": line} | span)
        below = place > 0
        notes.append(
            {
                "name": name,
                "text": f"{label} {100 * value:.2f}\u202f%",
                "xref": "x domain",
                "yref": "y",
                "x": 0,
                "y": value,
                "xanchor": "left",
                "yanchor": "top" if below else "bottom",
                "showarrow": False,
                "borderpad": 2,
                "font": {"size": 11},
            }
        )
    return shapes, notes
