"""Published recipes, as the methods bring them: one click fills in objective and training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from experiments import plan_facts
from experiments.forms.schema import with_defaults
from experiments.forms.terms import values_of
from experiments.models import Method
from worker.distill.spec import Preset, Training


@dataclass(frozen=True)
class Recipe:
    """A preset of a method. `fits`: it was published for this very pair of networks."""

    key: str  # crd.0
    method: Method
    preset: Preset
    fits: bool = False

    @property
    def formula(self) -> str:
        return plan_facts.formula(self.preset.objective)

    @property
    def pair(self) -> str:
        """resnet56 → resnet20, where the recipe is for one pair."""
        return " → ".join(one for one in (self.preset.teacher, self.preset.student) if one)


def of(method: Method) -> list[Recipe]:
    """A method's own. What another version of the engine published otherwise is left out."""
    found = []
    for number, row in enumerate(method.presets):
        try:
            preset = Preset.model_validate(row)
            Training.model_validate(preset.training)
        except ValidationError:
            continue
        found.append(Recipe(f"{method.key}.{number}", method, preset))
    return found


def offered(methods: Iterable[Method], teacher: str, student: str) -> list[Recipe]:
    """For a pair of architectures: those published for it first, then those for any pair."""
    everything = [recipe for method in methods for recipe in of(method)]
    wanted = {"teacher": teacher, "student": student}
    fitting, general = [], []
    for recipe in everything:
        named = {side: key for side in wanted if (key := getattr(recipe.preset, side))}
        if not named:
            general.append(recipe)
        elif all(wanted[side] == key for side, key in named.items()):
            fitting.append(Recipe(recipe.key, recipe.method, recipe.preset, fits=True))
    return fitting + general


def find(methods: Iterable[Method], key: str) -> Recipe | None:
    wanted = key.partition(".")[0]
    recipes = (recipe for method in methods if method.key == wanted for recipe in of(method))
    return next((recipe for recipe in recipes if recipe.key == key), None)


def typed(recipe: Recipe, methods: Mapping[str, Method]) -> dict[str, str | list[str]]:
    """What the form of a new run would send, had somebody typed the recipe; defaults written out."""
    objective = recipe.preset.objective
    task = objective.model_dump(exclude={"terms"}) | {"task_weight": round(objective.task_weight, 6)}
    fields = task | {f"training-{name}": value for name, value in recipe.preset.training.items()}
    rows = [str(number) for number in range(len(objective.terms))]
    for row, term in zip(rows, objective.terms, strict=True):
        if method := methods.get(term.method):
            whole = with_defaults(method.schema, term.params)
            term = term.model_copy(update={"params": whole})
        fields |= {f"t{row}-{name}": value for name, value in values_of(term).items()}
    said = {name: text for name, value in fields.items() if (text := as_text(value)) is not None}
    return {"recipe": recipe.key, "term": rows, **said}


def as_text(value: Any) -> str | None:
    """A value as its field sends it; None where a browser sends nothing."""
    if value is None or value is False:
        return None
    if value is True:
        return "on"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
