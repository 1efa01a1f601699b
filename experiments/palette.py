"""What the command palette finds: everything with a name that the person may see, best first.

A name that begins with what was typed comes before one in which it stands, that before one with all of its
words, and that before one which has its letters in their order. A run is found by its number too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from django.db.models import Case, CharField, F, Model, Q, QuerySet, Value, When
from django.db.models.lookups import Lookup
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from .models import Dataset, Experiment, Method, Project, Run, SavedView, Student, Tag, Teacher, Worker
from .templatetags.kd import STATUSES, pct, spoken

LONGEST = 100  # characters that are looked at
RUNS, OTHERS = 8, 4  # of a kind that are shown
FUZZY = 3  # letters from which on they may stand apart
Item = dict[str, str]


@CharField.register_lookup
class Letters(Lookup[Any]):
    """`name__letters="rs8"`: these letters in this order, whatever stands between, whichever case."""

    lookup_name = "letters"

    def get_prep_lookup(self) -> str:
        escaped = ("\\" + one if one in "\\%_" else one for one in str(self.rhs) if not one.isspace())
        return "%" + "%".join(escaped) + "%"

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        left, left_values = self.process_lhs(compiler, connection)
        right, right_values = self.process_rhs(compiler, connection)
        return f"UPPER({left}) LIKE UPPER({right}) ESCAPE '\\'", (*left_values, *right_values)


@dataclass(frozen=True)
class Kind:
    """`rows(person, projects)`: those the person may see; `item`: one of them as it is shown."""

    label: Promise
    icon: str
    rows: Callable[[Any, list[Project]], QuerySet[Any]]
    item: Callable[[Any], Item]
    fields: tuple[str, ...] = ("name",)
    most: int = OTHERS
    when_idle: bool = False  # shown before anything is typed


def search(person: Any, projects: list[Project], text: str) -> list[dict[str, Any]]:
    """[{label, items: [{label, hint, url, icon}]}] of the kinds that have any."""
    text = " ".join(text.split())[:LONGEST]
    groups = []
    for kind in KINDS:
        if text or kind.when_idle:
            found = best(kind.rows(person, projects), kind.fields, text)[: kind.most]
            items = [{"icon": kind.icon} | kind.item(row) for row in found]
            if items:
                groups.append({"label": str(kind.label), "items": items})
    return groups


def best(rows: QuerySet[Any], fields: tuple[str, ...], text: str) -> QuerySet[Any]:
    """The rows that fit, best first; those that fit alike in the order that `rows` has."""
    if not text:
        return rows
    begins, whole, holds, strewn = Q(), Q(), Q(), Q()
    for field in fields:
        begins |= Q(**{f"{field}__istartswith": text})
        whole |= Q(**{f"{field}__icontains": text})
        words = Q()
        for word in text.split():
            words &= Q(**{f"{field}__icontains": word})
        holds |= words
        strewn |= Q(**{f"{field}__letters": text})
    fits = holds | strewn if len(text) >= FUZZY else holds
    if rows.model is Run and (number := text.removeprefix("#")).isdecimal() and len(number) <= 18:
        fits, begins = fits | Q(pk=number), begins | Q(pk=number)
    places = [When(fit, then=Value(place)) for place, fit in enumerate((begins, whole, holds))]
    place = Case(*places, default=Value(len(places)))
    return rows.filter(fits).order_by(place, *rows.query.order_by or _natural(rows.model))


def _natural(model: type[Model]) -> Iterable[str]:
    return [str(one) for one in model._meta.ordering or ["pk"]]


def _seen(rows: QuerySet[Any]) -> Callable[[Any, list[Project]], QuerySet[Any]]:
    """Rows of the person's projects; `projects` holds exactly those."""
    return lambda person, projects: rows.filter(project__in=projects).select_related("project")


def _page(name: str) -> Callable[[Any], Item]:
    return lambda row: {"label": row.name, "hint": str(row.project), "url": reverse(name, args=[row.pk])}


def _run(run: Run) -> Item:
    state = str(STATUSES[run.state])
    words = _("%(state)s, %(accuracy)s") % {"state": state, "accuracy": pct(run.accuracy)}
    hint = state if run.accuracy is None else words
    return {"label": run.name, "hint": f"#{run.pk} · {hint}", "url": reverse("run_detail", args=[run.pk])}


def _filtered(key: str) -> Callable[[Any], Item]:
    def item(row: Any) -> Item:
        query = quote(f'{key}:"{row.name}"')
        return {"label": row.name, "hint": str(row.project), "url": f"{reverse('run_list')}?q={query}"}

    return item


def _views(person: Any, projects: list[Project]) -> QuerySet[SavedView]:
    mine = Q(owner=person.pk) | Q(shared=True)
    return SavedView.objects.filter(mine, project__in=projects).select_related("project")


def _view(view: SavedView) -> Item:
    return {"label": view.name, "hint": str(view.project), "url": f"{reverse('run_list')}?{view.query}"}


def _method(method: Method) -> Item:
    return {
        "label": spoken(method.title),
        "hint": method.key,
        "url": f"{reverse('method_list')}#{quote(method.key)}",
    }


def _worker(worker: Worker) -> Item:
    return {"label": worker.name, "hint": worker.device, "url": reverse("worker_list")}


SHORT = ("pk", "name", "status", "accuracy", "silent_since", "project")
KINDS = (
    Kind(
        gettext_lazy("Runs"),
        "runs",
        lambda person, projects: (
            Run.objects.shown().filter(project__in=projects).order_by(F("created").desc(), "-pk").only(*SHORT)
        ),
        _run,
        most=RUNS,
        when_idle=True,
    ),
    Kind(gettext_lazy("Saved views"), "columns", _views, _view),
    Kind(gettext_lazy("Experiments"), "folder", _seen(Experiment.objects.all()), _filtered("experiment")),
    Kind(gettext_lazy("Tags"), "tag", _seen(Tag.objects.all()), _filtered("tag")),
    Kind(gettext_lazy("Teachers"), "teacher", _seen(Teacher.objects.all()), _page("teacher_detail")),
    Kind(gettext_lazy("Students"), "student", _seen(Student.objects.all()), _page("student_detail")),
    Kind(gettext_lazy("Datasets"), "dataset", _seen(Dataset.objects.all()), _page("dataset_detail")),
    Kind(
        gettext_lazy("Methods"),
        "method",
        lambda *_who: Method.objects.all(),
        _method,
        fields=("key", "title"),
    ),
    Kind(gettext_lazy("Workers"), "worker", lambda *_who: Worker.objects.all(), _worker),
)
