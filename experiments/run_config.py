"""A run's configuration as flat pairs, and what differs between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from experiments import plan_facts
from experiments.models import Run
from experiments.templatetags.kd import spoken
from worker.distill.spec import Objective, Training

LABELS = (gettext_noop("Pretrained"), gettext_noop("Teachers mixed by"), gettext_noop("More teachers"))


@dataclass(frozen=True)
class Row:
    label: str
    values: list[Any]  # None where a run has no such key

    @property
    def title(self) -> str:
        """The label in the reader's language, as a line of a table begins."""
        said = named(self.label)
        return capfirst(said) if said == self.label else said

    @property
    def shown(self) -> list[str]:
        return [show(value) for value in self.values]

    @property
    def cells(self) -> list[tuple[str, bool]]:
        """Each value as shown, and whether it is other than the first."""
        return [(show(value), value != self.values[0]) for value in self.values]

    @property
    def changed(self) -> bool:
        return any(value != self.values[0] for value in self.values)


def show(value: Any) -> str:
    """A setting as a person reads it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, list):
        return ", ".join(map(show, value)) or "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def flatten(run: Run) -> dict[str, Any]:
    """What determines the result, key by key. Needs dataset, teacher, student and architecture loaded."""
    objective = Objective(**run.objective)
    flat: dict[str, Any] = {
        "purpose": run.get_purpose_display(),
        "dataset": run.dataset.name,
        "student": run.student.name if run.student else None,
        "architecture": run.architecture_id,
        "pretrained": bool(run.student and run.student.pretrained),
        "frozen stages": run.frozen_stages or None,
        **_teachers(run),
        "weight of CE": objective.task_weight,
        "label smoothing": objective.label_smoothing,
        "class weights": objective.class_weights,
    }
    seen: dict[str, int] = {}
    for term in objective.terms:
        seen[term.method] = number = seen.get(term.method, 0) + 1
        name = term.method if number == 1 else f"{term.method}_{number}"
        flat[f"weight of {name}"] = term.weight
        flat[f"{name} schedule"] = plan_facts.course(term.schedule).strip() or None
        given = {key: value for key, value in term.params.items() if value not in ("", None, [])}
        flat |= {f"{name} {key.replace('_', ' ')}": value for key, value in given.items()}
    for key, value in Training(**run.training).model_dump().items():
        flat[_label(key)] = value
    return flat


def _label(key: str) -> str:
    """A field of the training as its form names it, small unless it begins with an acronym."""
    title = Training.model_fields[key].title or key.replace("_", " ")
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def named(label: str) -> str:
    """A label of `flatten` in the reader's language: weight of kd, kd temperature, batch size."""
    term, _space, parameter = label.partition(" ")
    if label.startswith("weight of "):
        return _("weight of %(term)s") % {"term": label.removeprefix("weight of ")}
    if (known := spoken(capfirst(label))) != capfirst(label):
        return known
    said = spoken(capfirst(parameter))
    return f"{term} {said}" if said != capfirst(parameter) else label


SEED = _label("seed")  # what runs of one group differ in


def _teachers(run: Run) -> dict[str, Any]:
    names = [teacher.name for teacher in run.teachers]
    several: dict[str, Any] = {"teacher": names[0] if names else None}
    if len(names) > 1:
        several |= {"more teachers": ", ".join(names[1:]), "teachers mixed by": run.mixing.get("kind")}
        if run.mixing.get("kind") == "weighted":
            several["teachers' weights"] = run.mixing.get("weights")
    return several


def table(runs: Sequence[Run]) -> list[Row]:
    """Every key of any of the runs, in the order they first appear."""
    return rows([flatten(run) for run in runs])


def rows(configs: Sequence[dict[str, Any]]) -> list[Row]:
    keys = list(dict.fromkeys(key for config in configs for key in config))
    return [Row(key, [config.get(key) for config in configs]) for key in keys]


def differences(runs: Sequence[Run]) -> list[Row]:
    return [row for row in table(runs) if row.changed]
