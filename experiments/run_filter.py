"""The runs list's query line: `method:kd status:failed student:resnet8 acc>0.9 words`.

Terms are joined by and; a comma inside a term means or; a minus before it means not.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import Case, ExpressionWrapper, F, FloatField, Q, QuerySet, Value, When
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast, Coalesce

from experiments.models import Run, RunTeacher

OPERATORS = (">=", "<=", ">", "<", "=")
LOOKUPS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte", "=": "exact", ":": "exact"}
NUMBERS = {
    "acc": "accuracy",
    "teacher_acc": "shown_teacher",
    "delta": "shown_delta",
    "gain": "shown_gain",
    "ratio": "shown_ratio",
    "params": "parameters",
    "flops": "flops",
    "latency": "latency_ms",
    "epoch": "epoch",
    "seed": "training__seed",
    "id": "pk",
}
SHARES = {"acc", "teacher_acc"}  # 0.9, 90% and 90 are the same
POINTS = {"delta", "gain"}  # percentage points, as the table shows them
UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}
HELP = (
    "Words search names. Keys: status, method, student, teacher, dataset, purpose, owner, experiment; "
    f"numbers: {', '.join(NUMBERS)}. E.g. method:kd,fitnet -status:failed acc>90% gain>0 ratio>10."
)


class BadQuery(ValueError):
    """One sentence for the person who typed it."""


@dataclass(frozen=True)
class Sort:
    label: str
    by: str
    first: str = ""  # "-" where people want the largest on top


SORTS: dict[str, Sort] = {
    "status": Sort("Status", "status"),
    "name": Sort("Name", "name"),
    "student": Sort("Teacher → student", "architecture__key"),
    "method": Sort("Method", "method_keys"),
    "acc": Sort("Accuracy", "accuracy", "-"),
    "delta": Sort("Δ teacher", "shown_delta", "-"),
    "gain": Sort("Gain", "shown_gain", "-"),
    "ratio": Sort("Compr.", "shown_ratio", "-"),
    "progress": Sort("Epochs", "shown_progress", "-"),
    "duration": Sort("Duration", "shown_duration", "-"),
    "owner": Sort("Owner", "owner__username"),
    "created": Sort("Created", "created", "-"),
}


def filtered(runs: QuerySet[Run], query: str, sort: str) -> QuerySet[Run]:
    """The runs a query line leaves, sorted. BadQuery says what is wrong with the line."""
    words = split(query)
    key = sort.lstrip("-")
    if key not in SORTS:
        raise BadQuery(f"sort = {key!r}: no such column. Choose one of {', '.join(SORTS)}.")
    condition = Q()
    for word in words:
        condition &= _term(word)
    needed = {NUMBERS.get(_key(word), "") for word in words} | {SORTS[key].by}
    runs = runs.annotate(**_annotations(needed)).filter(condition)
    column = F(SORTS[key].by)
    order = column.desc(nulls_last=True) if sort.startswith("-") else column.asc(nulls_last=True)
    return runs.order_by(order, "-pk")


def split(query: str) -> list[str]:
    if len(query) > 500:
        raise BadQuery("The filter is longer than 500 characters. Shorten it.")
    try:
        return shlex.split(query.replace("\\", "\\\\"))
    except ValueError:
        raise BadQuery('A quotation mark is not closed. Write "two words" with both.') from None


def _parts(word: str) -> tuple[str, str, str] | None:
    """(key, operator, value) of `key:value` or `key>value`; None for a plain word."""
    places = [(word.index(sign), sign) for sign in (*OPERATORS, ":") if sign in word]
    if not places:
        return None
    place, sign = min(places, key=lambda found: (found[0], -len(found[1])))
    return word[:place].lower(), sign, word[place + len(sign) :]


def _key(word: str) -> str:
    parts = _parts(word.removeprefix("-"))
    return parts[0] if parts else ""


def _term(word: str) -> Q:
    negative = len(word) > 1 and word.startswith("-")
    parts = _parts(word[1:] if negative else word)
    condition = _words(word[1:] if negative else word) if parts is None else _condition(*parts)
    return ~condition if negative else condition


def _words(word: str) -> Q:
    places = ("name", "architecture__key", "student__name", "teacher__name", "method_keys")
    return _any(Q(**{f"{place}__icontains": word}) for place in places)


def _any(conditions: Any) -> Q:
    joined = Q(pk__in=[])
    for condition in conditions:
        joined |= condition
    return joined


def _condition(key: str, sign: str, value: str) -> Q:
    if not value:
        raise BadQuery(f"{key}{sign} has no value. Write for example {key}{sign}{_example(key)}.")
    if key in NUMBERS:
        return Q(**{f"{NUMBERS[key]}__{LOOKUPS[sign]}": _number(key, value)})
    if key not in TEXTS:
        raise BadQuery(f"{key!r} is no key of the filter. Choose one of {', '.join([*TEXTS, *NUMBERS])}.")
    if sign not in (":", "="):
        raise BadQuery(f"{key} is a text: write {key}:{value}.")
    return _any(TEXTS[key](part) for part in value.split(",") if part)


def _example(key: str) -> str:
    return "0.9" if key in SHARES else "0.5" if key in POINTS else "10" if key in NUMBERS else "resnet8"


def _number(key: str, text: str) -> float:
    digits = text.rstrip("%×x").replace(",", "").lower()
    unit = UNITS.get(digits[-1:], 1.0) if key in ("params", "flops") else 1.0
    try:
        number = float(digits.rstrip("kmg") if unit != 1 else digits) * unit
    except ValueError:
        number = float("nan")
    if number != number or abs(number) == float("inf"):
        raise BadQuery(f"{key}: {text!r} is no number. Write for example {key}>{_example(key)}.")
    if key in POINTS or (key in SHARES and (text.endswith("%") or number > 1)):
        return number / 100
    return number


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
        choices = ", ".join([*Run.Status.values, "lost", "active", "ended"])
        raise BadQuery(f"status: {value!r} is no status. Choose one of {choices}.")
    return Q(status=value) & ~quiet if value in Run.ACTIVE else Q(status=value)


def _purpose(value: str) -> Q:
    if value.lower() not in Run.Purpose.values:
        raise BadQuery(f"purpose: {value!r} is none. Choose one of {', '.join(Run.Purpose.values)}.")
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


TEXTS: dict[str, Callable[[str], Q]] = {
    "status": _status,
    "method": _method,
    "student": lambda value: Q(student__name__icontains=value) | Q(architecture__key__icontains=value),
    "teacher": lambda value: (
        Q(teacher__name__icontains=value)
        | Q(makes__name__icontains=value)
        | Q(pk__in=RunTeacher.objects.filter(teacher__name__icontains=value).values("run"))
    ),
    "dataset": lambda value: Q(dataset__name__icontains=value),
    "purpose": _purpose,
    "owner": lambda value: Q(owner__username__iexact=value),
    "experiment": lambda value: Q(experiment__name__icontains=value),
    "name": lambda value: Q(name__icontains=value),
}


def _annotations(needed: set[str]) -> dict[str, Any]:
    """Only what is asked for: the JSON of ten thousand results is not read to sort by name."""
    wanted = {name for name in needed if name.startswith("shown_")}
    if "shown_delta" in wanted:
        wanted.add("shown_teacher")
    return {name: ANNOTATIONS[name]() for name in ANNOTATIONS if name in wanted}


def _json_number(column: str, *path: str) -> Any:
    """A number inside a JSON column, also of a related row."""
    *outer, last = path
    inside: Any = column
    for key in outer:
        inside = KeyTransform(key, inside)
    return Cast(KeyTextTransform(last, inside), FloatField())


def _gain() -> Any:
    measured = Q(status=Run.Status.SUCCEEDED, control__status=Run.Status.SUCCEEDED)
    gain = When(measured, then=F("accuracy") - F("control__accuracy"))
    return Case(gain, default=None, output_field=FloatField())


def _progress() -> Any:
    share = Cast(F("step"), FloatField()) / Cast(F("total_steps"), FloatField())
    return Case(
        When(status=Run.Status.SUCCEEDED, then=Value(1.0)),
        When(total_steps__gt=0, then=share),
        default=Value(0.0),
        output_field=FloatField(),
    )


def _teacher() -> Any:
    """As `Run.teacher_accuracy` has it: its score, or top-1 where an earlier version measured it."""
    here, before = (
        Coalesce(*(_json_number(*place, key) for key in ("score", "top1")))
        for place in (("results", "teacher"), ("teacher__metrics",))
    )
    same_data = When(teacher__dataset=F("dataset"), then=before)
    return Coalesce(here, Case(same_data, default=None, output_field=FloatField()))


def _ratio() -> Any:
    """From the teacher's own few numbers where it has them: they are read faster than a run's results."""
    own, seen = ("teacher__metrics", "parameters"), ("results", "teacher", "parameters")
    teacher = Coalesce(_json_number(*own), _json_number(*seen))
    return ExpressionWrapper(teacher / Cast(F("parameters"), FloatField()), output_field=FloatField())


ANNOTATIONS: dict[str, Callable[[], Any]] = {
    "shown_teacher": _teacher,
    "shown_delta": lambda: Case(
        When(status=Run.Status.SUCCEEDED, then=F("accuracy") - F("shown_teacher")),
        default=None,
        output_field=FloatField(),
    ),
    "shown_gain": _gain,
    "shown_ratio": _ratio,
    "shown_progress": _progress,
    "shown_duration": lambda: F("finished") - F("started"),
}
