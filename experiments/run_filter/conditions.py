"""From the tree of a query line to a condition of the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Q
from django.utils.translation import gettext as _

from experiments.models import Dataset, Experiment, Run, RunTeacher, Star, Student, Tag, Teacher

from . import sql
from .columns import BUILT_IN, STATISTICS, Column, Names
from .numbers import EXAMPLES, days, number
from .query import All, BadQuery, Not, Place, Term, Tree
from .query import Any as AnyOf

User = AbstractBaseUser | AnonymousUser | None
LOOKUPS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte", "=": "exact", ":": "exact"}
IS = ("starred", "mine", "tagged", "archived", "trashed", "anywhere")
SHELVES = {"archived": (Run.Shelf.ARCHIVE,), "trashed": (Run.Shelf.TRASH,), "anywhere": tuple(Run.Shelf)}
STATES = (*Run.Status.values, "lost", "active", "ended")


def any_of(conditions: Iterable[Q]) -> Q:
    joined = Q(pk__in=[])
    for condition in conditions:
        joined |= condition
    return joined


class Conditions:
    """Builds the condition; knows afterwards which columns it needs and which shelves it asks for."""

    def __init__(self, names: Names, user: User) -> None:
        self.names, self.user = names, user
        self.columns: dict[str, Column] = {}
        self.shelves: set[str] = {Run.Shelf.NONE}

    def of(self, tree: Tree) -> Q:
        match tree:
            case Not():
                return ~self.of(tree.of)
            case All():
                condition = Q()
                for one in tree.of:
                    condition &= self.of(one)
                return condition
            case AnyOf():
                return any_of(map(self.of, tree.of))
            case Term():
                return self._term(tree)

    def _term(self, term: Term) -> Q:
        if not term.key:
            return _words(term.text)
        key = {"tags": "tag", "user": "owner"}.get(term.key.lower(), term.key.lower())
        if key not in ("is", *TEXTS) and (column := self.names.column(term.key)) is None:
            raise self._unknown(term)
        if not term.values:
            words = _("%(key)s%(sign)s has no value. Write for example %(example)s.")
            example = f"{term.key}{term.sign}{self._example(key)}"
            raise BadQuery(words % {"key": term.key, "sign": term.sign, "example": example}, term.place)
        if term.sign == "!=":
            return ~self._term(Term(term.key, "=", term.values, term.place, term.value_at))
        if key == "is" or key in TEXTS:
            return self._text(key, term)
        assert column is not None
        self.columns[column.key] = column
        if column.kind == "moment":
            return any_of(_moment(column, term, value) for value in term.values)
        return any_of(self._value(column, term, value) for value in term.values)

    def _unknown(self, term: Term) -> BadQuery:
        near = self.names.like(term.key, ("is", *TEXTS))
        if term.key.rpartition(".")[2] in STATISTICS or "/" in term.key:
            words = _("“%(key)s” is no metric of these runs. Write a name as its chart has it, with .last, "
                      ".best, .min or .max.")  # fmt: skip
        elif near:
            words = _("“%(key)s” is no key of the filter. Did you mean %(near)s?")
        else:
            words = _("“%(key)s” is no key of the filter. Type a key's first letters and choose, or quote "
                      "the word to look for it in names.")  # fmt: skip
        place = Place(term.place.start, term.place.start + len(term.key))
        return BadQuery(words % {"key": term.key, "near": near}, place)

    def _example(self, key: str) -> str:
        texts = {"is": "starred", "status": "failed", "purpose": "control", "tag": "ship", "method": "kd"}
        column = self.names.column(key)
        return texts.get(key) or EXAMPLES.get(column.kind if column else "", "resnet8")

    def _text(self, key: str, term: Term) -> Q:
        if term.sign not in (":", "="):
            words = _("%(key)s is a text: write %(fix)s.")
            raise BadQuery(words % {"key": term.key, "fix": f"{term.key}:{term.text}"}, term.place)
        try:
            return any_of(self._is(value) if key == "is" else TEXTS[key](value) for value in term.values)
        except _NoChoice as error:
            words = _("%(key)s: “%(value)s” is none of them. Choose one of %(choices)s.")
            values = {"key": term.key, "value": error.value, "choices": ", ".join(error.choices)}
            raise BadQuery(words % values, Place(term.value_at, term.place.end)) from None

    def _is(self, value: str) -> Q:
        value = value.lower()
        mine = getattr(self.user, "pk", None)
        if value in SHELVES:
            self.shelves |= set(SHELVES[value])
            return Q(shelf__in=SHELVES[value])
        match value:
            case "starred":
                return Q(pk__in=Star.objects.filter(user=mine).values("run"))
            case "mine":
                return Q(owner=mine)
            case "tagged":
                return Q(pk__in=Tag.runs.through.objects.values("run"))
        if value not in STATES:
            raise _NoChoice(value, (*IS, *STATES))
        return _status(value)

    def _value(self, column: Column, term: Term, value: str) -> Q:
        """`key:a..b` is a range; a text is compared whole, whatever its case."""
        begin, dots, end = value.partition("..")
        if dots and term.sign in (":", "="):
            low, high = (self._number(column, term, part) for part in (begin, end))
            name = sql.number(column)
            return Q(**{f"{name}__gte": low, f"{name}__lte": high})
        if column.numeric or term.sign not in (":", "="):
            wanted = self._number(column, term, value)
            return Q(**{f"{sql.number(column)}__{LOOKUPS[term.sign]}": wanted})
        condition = Q(**{f"{sql.text(column)}__iexact": value})
        as_number = number(value, "number") if column.value else None
        return condition if as_number is None else condition | Q(**{sql.number(column): as_number})

    def _number(self, column: Column, term: Term, value: str) -> float:
        found = number(value, column.kind)
        if found is None:
            words = _("%(key)s: “%(value)s” is no number. Write for example %(example)s.")
            sign = term.sign if term.sign not in (":", "=") else ">"
            example = f"{term.key}{sign}{EXAMPLES.get(column.kind, '0.1')}"
            place = Place(term.value_at, term.place.end)
            raise BadQuery(words % {"key": term.key, "value": value, "example": example}, place)
        return found


def _moment(column: Column, term: Term, value: str) -> Q:
    begin, dots, end = value.partition("..")
    spans = [days(part.strip().lower()) for part in ((begin, end) if dots else (begin,))]
    place = Place(term.value_at, term.place.end)
    if None in spans:
        words = _("%(key)s: “%(value)s” is no date. Write for example %(key)s>2026-11-01, %(key)s:2026-11, "
                  "%(key)s:today or %(key)s:7d (the last seven days).")  # fmt: skip
        raise BadQuery(words % {"key": term.key, "value": value}, place)
    first, last = spans[0], spans[-1]
    assert first is not None
    assert last is not None
    until, name = last.end, column.field
    if until is None and term.sign not in (":", "="):
        words = _("%(key)s%(sign)s%(value)s could mean two things. Write %(key)s:%(value)s for the time "
                  "since then, -%(key)s:%(value)s for the time before.")  # fmt: skip
        raise BadQuery(words % {"key": term.key, "sign": term.sign, "value": value}, term.place)
    match term.sign:
        case ">":
            return Q(**{f"{name}__gte": until})
        case ">=":
            return Q(**{f"{name}__gte": first.begin})
        case "<":
            return Q(**{f"{name}__lt": first.begin})
        case "<=":
            return Q(**{f"{name}__lt": until})
    since = Q(**{f"{name}__gte": first.begin})
    return since & Q(**{f"{name}__lt": until}) if until else since


class _NoChoice(ValueError):
    def __init__(self, value: str, choices: Iterable[str]) -> None:
        self.value, self.choices = value, tuple(choices)


def _words(word: str) -> Q:
    """In the names of the run, its networks, its teacher and its methods."""
    return (
        any_of(Q(**{f"{place}__icontains": word}) for place in ("name", "architecture__key", "method_keys"))
        | Q(student__in=Student.objects.filter(name__icontains=word))
        | Q(teacher__in=Teacher.objects.filter(name__icontains=word))
    )


def _status(value: str) -> Q:
    value = value.lower()
    quiet = Q(status__in=Run.ACTIVE, silent_since__isnull=False)
    match value:
        case "lost":
            return quiet
        case "active":
            return Q(status__in=[*Run.ACTIVE, Run.Status.QUEUED])
        case "ended":
            return Q(status__in=Run.ENDED)
    if value not in Run.Status.values:
        raise _NoChoice(value, STATES)
    return Q(status=value, silent_since__isnull=True) if value in Run.ACTIVE else Q(status=value)


def _purpose(value: str) -> Q:
    if value.lower() not in Run.Purpose.values:
        raise _NoChoice(value, Run.Purpose.values)
    return Q(purpose=value.lower())


def _method(value: str) -> Q:
    """Whole keys of a+b+c, so that `kd` does not find `dkd`."""
    key = value.lower()
    return (
        Q(method_keys=key)
        | Q(method_keys__startswith=f"{key}+")
        | Q(method_keys__endswith=f"+{key}")
        | Q(method_keys__contains=f"+{key}+")
    )


def _student(value: str) -> Q:
    named = Q(student__in=Student.objects.filter(name__icontains=value))
    return named | Q(architecture__key__icontains=value)


def _teacher(value: str) -> Q:
    """One it learns from, or the one it makes."""
    named = Teacher.objects.filter(name__icontains=value)
    beside = RunTeacher.objects.filter(teacher__in=named).values("run")
    made = named.filter(made_by__isnull=False).values("made_by")
    return Q(teacher__in=named) | Q(pk__in=beside) | Q(pk__in=made)


def _experiment(value: str) -> Q:
    return Q(experiment__in=Experiment.objects.filter(name__icontains=value))


def _tag(value: str) -> Q:
    return Q(pk__in=Tag.runs.through.objects.filter(tag__name__iexact=value).values("run"))


TEXTS: dict[str, Callable[[str], Q]] = {
    "status": _status,
    "method": _method,
    "student": _student,
    "teacher": _teacher,
    "dataset": lambda value: Q(dataset__in=Dataset.objects.filter(name__icontains=value)),
    "purpose": _purpose,
    "owner": lambda value: Q(owner__username__iexact=value),
    "experiment": _experiment,
    "name": lambda value: Q(name__icontains=value),
    "tag": _tag,
}
KEYS: tuple[str, ...] = ("is", *TEXTS, *(key for key in BUILT_IN if key not in TEXTS and key != "tags"))
