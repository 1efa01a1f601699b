"""How the values of the runs table read: as HTML, written here because a template takes ten times as long.

Every text of a person goes through `escape`; what is not escaped is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from django.urls import reverse
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from experiments.run_filter.columns import Column
from experiments.templatetags import kd

from .rows import Row, epochs, raw

CSS = {"name": "name", "pair": "pairing", "tags": "tagged"}
WORKING = ("running", "preparing", "lost", "pausing", "stopping")
DASH = mark_safe('<span class="faint">–</span>')


def shown(column: Column, value: Any) -> str:
    """A plain value of this column; also the mean of a group."""
    if value is None or value == "":
        return DASH
    if isinstance(value, str):
        return value
    return FORMATS.get(column.kind, kd.sig)(value)


def _number(value: Any) -> str:
    """Whole numbers in full, others at four digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return kd.sig(int(value))
    text = kd.sig(value)  # 0.0050 was asked for as 0.005
    return text.rstrip("0") if "." in text and "e" not in text else text


FORMATS: dict[str, Callable[[Any], str]] = {
    "share": kd.pct,
    "acc": kd.pct,
    "points": kd.points,
    "gain": kd.delta,
    "ratio": kd.ratio,
    "count": kd.count,
    "bytes": kd.filesize,
    "flops": kd.flops,
    "ms": kd.milliseconds,
    "seconds": kd.duration,
    "number": _number,
    "either": _number,
    "text": _number,  # a text's column with a number in it
    "moment": kd.ago,
}


def css(column: Column) -> str:
    numeric = column.numeric or column.kind in ("progress", "moment", "either")
    return "num" if numeric else CSS.get(column.kind, "")


def safe(value: str) -> str:
    """Escaped, unless it is HTML of ours."""
    return value if isinstance(value, SafeString) else escape(value)


class Painter:
    """Writes the rows of one page. What the rows have in common is made once."""

    def __init__(self, columns: Sequence[Column]) -> None:
        own: dict[str, Callable[[Row], str]] = {
            "status": self._status,
            "name": self._name,
            "pair": self._pair,
            "method": self._method,
            "acc": self._accuracy,
            "progress": self._progress,
            "tags": self._tags,
            "purpose": self._purpose,
        }
        self.columns = [(column, f'<td class="{css(column)}">', own.get(column.kind)) for column in columns]
        self.badges: dict[str, str] = {}
        self.to_run, self.to_teacher = _address("run_detail"), _address("teacher_detail")
        self.to_star = _address("run_star")
        self.stars = {on: str(kd.icon("starred" if on else "star")) for on in (True, False)}
        self.star_title = escape(_("Star: yours alone; find them with is:starred"))
        self.select, self.star_it = _("Select %(name)s"), _("Star %(name)s")

    def row(self, row: Row, css: str = "") -> SafeString:
        """A whole row, with its check box."""
        pk, label = row.run.pk, escape(self.select % {"name": row.run.name})
        parts = [
            f'<tr data-run="{pk}" class="{css}"><td class="pick"><input type="checkbox" name="run"'
            f' value="{pk}" id="pick-{pk}" hx-preserve aria-label="{label}"></td>'
        ]
        for column, cell, own in self.columns:
            parts += cell, own(row) if own else safe(shown(column, raw(column, row))), "</td>"
            if css and column.key == "name":
                parts.append("<td></td>")  # where its group says how many runs it has
        parts.append("</tr>")
        return mark_safe("".join(parts))  # noqa: S308 - each part is escaped or ours

    def _status(self, row: Row) -> str:
        state = kd.run_state(row.run)
        if state not in self.badges:
            self.badges[state] = str(kd.status_badge(state))
        return self.badges[state]

    def _name(self, row: Row) -> str:
        run, name = row.run, escape(row.run.name)
        away = f' <span class="tag">{escape(run.get_shelf_display())}</span>' if run.shelf else ""
        link = f'<a href="{self.to_run(run.pk)}" id="to-{run.pk}" title="{name}">{name}</a>'
        return f'{self._star(row)}<span class="swatch {run.colour}"></span>{link}{away}'

    def _star(self, row: Row) -> str:
        """The button of `runs/_star.html`, which answers a click on it."""
        pk, on = row.run.pk, row.starred
        label = escape(self.star_it % {"name": row.run.name})
        return (
            f'<button class="star" type="button" id="star-{pk}" hx-post="{self.to_star(pk)}"'
            f' hx-vals=\'{{"on": "{int(not on)}"}}\' hx-params="on" hx-swap="outerHTML"'
            f' aria-pressed="{str(on).lower()}" title="{self.star_title}" aria-label="{label}">'
            f"{self.stars[on]}</button>"
        )

    def _pair(self, row: Row) -> str:
        run = row.run
        student = escape(run.student.name if run.student else run.architecture_id)
        own = f'<span class="truncate" title="{student}">{student}</span>'
        if run.teacher is None:
            return f'<span class="pair">{own}</span>'
        teacher, link = escape(run.teacher.name), self.to_teacher(run.teacher.pk)
        return (
            f'<span class="pair"><a class="muted truncate" href="{link}" title="{teacher}">{teacher}</a>'
            f'<span class="faint">→</span>{own}</span>'
        )

    def _method(self, row: Row) -> str:
        if row.run.method_keys:
            return escape(row.run.method_keys)
        alone = _("teacher") if row.run.purpose == row.run.Purpose.TEACHER else _("alone")
        return f'<span class="faint">{escape(alone)}</span>'

    def _accuracy(self, row: Row) -> str:
        run = row.run
        if run.accuracy is None:
            return DASH
        if run.measured:
            return kd.pct(run.accuracy)
        title = escape(_("Best validation accuracy so far"))
        return f'<span class="faint" title="{title}">{kd.pct(run.accuracy)}</span>'

    def _progress(self, row: Row) -> str:
        run, of = row.run, epochs(row)
        state = kd.run_state(run)
        if state in WORKING or (state == "paused" and run.step):
            label = escape(_("Progress"))
            bar = f'<progress data-status="{state}" max="1" value="{run.progress:.4f}" aria-label="{label}">'
            return f"{bar}</progress>{run.epoch}/{of}"
        return str(of) if run.ended else f'<span class="faint">0/{of}</span>'

    def _tags(self, row: Row) -> str:
        return " ".join(f'<span class="tag">{escape(name)}</span>' for name in row.tags)

    def _purpose(self, row: Row) -> str:
        return escape(row.run.get_purpose_display())


def _address(name: str) -> Callable[[int], str]:
    """Addresses of many rows: looked up once."""
    before, after = reverse(name, args=[0]).rsplit("0", 1)
    return lambda pk: f"{before}{pk}{after}"
