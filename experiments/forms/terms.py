"""The rows of an objective on the form of a new run: a method, its weight, its schedule, its parameters."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments.models import Method
from experiments.plan_layers import Pairs
from experiments.plan_parts import layer_parameters
from worker.distill.spec import Objective, Schedule, Term

from .schema import build_fields

SCHEDULE_SCHEMA = Schedule.model_json_schema()
EMPTY: tuple[Any, ...] = (None, "", [])


class TermForm(forms.Form):
    """A row of the objective. Fields: method, weight, s-… of the schedule, p-… that the method declares."""

    method = forms.ChoiceField(label=gettext_lazy("Method"))
    weight = forms.FloatField(min_value=0, max_value=1e6, initial=1.0, label=gettext_lazy("Weight"))

    def __init__(
        self, row: str, methods: dict[str, Method], data: Any = None, term: Term | None = None
    ) -> None:
        self.row, self.term = row, term
        self.pairs: Pairs = []  # the layers it will compare, once both networks are known
        super().__init__(data, prefix=f"t{row}")
        asked = data.get(f"t{row}-method") if data is not None else term.method if term else None
        self.about = methods.get(asked or "") or next(iter(methods.values()), None)
        choices = [(key, _(method.title)) for key, method in methods.items()]
        if asked and asked not in methods:
            choices.insert(0, (asked, _("%(method)s (not offered)") % {"method": asked}))
        self.fields["method"].choices = choices  # type: ignore[attr-defined]
        self.fields["weight"].widget.attrs |= {"step": "any", "inputmode": "decimal"}
        schema = self.about.schema if self.about else {}
        self.fields |= build_fields(SCHEDULE_SCHEMA, prefix="s") | build_fields(schema, prefix="p")
        if term:
            self.initial = values_of(term)
        elif self.about:
            self.initial = {"method": self.about.key}

    @property
    def parameter_fields(self) -> list[Any]:
        return [self[name] for name in self.fields if name.startswith("p-")]

    @property
    def schedule_fields(self) -> list[Any]:
        return [self[name] for name in self.fields if name.startswith("s-")]

    @property
    def shows_schedule(self) -> bool:
        """It is told at once where it says something, or something wrong."""
        if any(field.errors for field in self.schedule_fields):
            return True
        chosen = self.as_term().schedule if self.is_bound else self.term.schedule if self.term else None
        return chosen not in (None, Schedule())

    @property
    def has_layers(self) -> bool:
        return bool(layer_parameters(self.about))

    def as_term(self) -> Term:
        values = getattr(self, "cleaned_data", {})
        return Term(
            method=values.get("method") or "",
            weight=values.get("weight") or 0.0,
            schedule=Schedule(**self._given("s-")),
            params=self._given("p-"),
        )

    def _given(self, start: str) -> dict[str, Any]:
        values = getattr(self, "cleaned_data", {})
        return {
            name.removeprefix(start): values[name]
            for name in self.fields
            if name.startswith(start) and values.get(name) not in EMPTY
        }


def values_of(term: Term) -> dict[str, Any]:
    """A term as the initial values of its row."""
    schedule = {f"s-{name}": value for name, value in term.schedule.model_dump().items()}
    params = {f"p-{name}": value for name, value in term.params.items()}
    return {"method": term.method, "weight": round(term.weight, 6), **schedule, **params}


def term_rows(objective: Objective, methods: dict[str, Method]) -> list[TermForm]:
    return [TermForm(str(number), methods, term=term) for number, term in enumerate(objective.terms)]
