"""What can be wrong with the terms of an objective: method, parameters, schedule, layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext as _
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaViolation

from experiments import plan_layers
from experiments.forms.schema import explain
from experiments.models import ArchitectureProfile, Method
from experiments.plan_layers import Networks
from experiments.plan_parts import Parts, Problem, closest, layer_parameters
from experiments.templatetags.kd import spoken
from worker.distill.spec import SpecError, Term


def terms_are_known(parts: Parts) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, term in enumerate(parts.objective.terms):
        where = f"objective.terms.{number}"
        method = parts.methods.get(term.method)
        if method is None:
            yield Problem(
                f"{where}.method", term.method, _("there is no such method."), closest(term.method, known())
            )
            continue
        if (said := f"{term.method} {sorted(term.params.items())}") in seen:
            yield Problem(
                f"{where}.method",
                term.method,
                _("the same term stands in the objective twice."),
                _("Remove one and add its weight to the other."),
                level="warning",
            )
        seen.add(said)
        if not method.available:
            yield Problem(
                f"{where}.method",
                term.method,
                _("the workers do not offer it at present: %(reason)s")
                % {"reason": method.problem or _("its file is missing.")},
                _("Choose another method, or repair the workers."),
            )
        for violation in Draft202012Validator(method.schema).iter_errors(term.params):
            yield _violation(where, term.params, violation)


def known() -> list[str]:
    return list(Method.objects.filter(available=True).values_list("key", flat=True))


def _violation(where: str, params: dict[str, Any], violation: SchemaViolation) -> Problem:
    problem, fix, name = explain(violation)
    return Problem(f"{where}.params.{name}".rstrip("."), params.get(name), problem, fix)


def terms_have_a_form(parts: Parts) -> Iterator[Problem]:
    """Some methods have no form for images that show several classes at once."""
    if parts.dataset is None or not parts.dataset.multi_label:
        return
    for number, term in enumerate(parts.objective.terms):
        method = parts.methods.get(term.method)
        if method and "multi-label" not in method.tasks:
            yield Problem(
                f"objective.terms.{number}.method",
                term.method,
                _(
                    "it has no form for multi-label data, and an image of %(dataset)s may show several "
                    "classes."
                )
                % {"dataset": parts.dataset.name},
                _("Choose a method with a form for it, such as kd, or one that compares features."),
            )


def schedules_fit(parts: Parts) -> Iterator[Problem]:
    epochs = parts.training.epochs
    for number, term in enumerate(parts.objective.terms):
        if term.schedule.warmup_epochs >= epochs:
            yield Problem(
                f"objective.terms.{number}.schedule.warmup_epochs",
                term.schedule.warmup_epochs,
                _("in %(n)s epochs the term never reaches its weight.") % {"n": epochs},
                _("Make it less than the epochs (%(n)s).") % {"n": epochs},
                level="warning",
            )


def layers_fit(parts: Parts) -> Iterator[Problem]:
    """Layers are checked where a worker has listed them; until then the engine checks them."""
    nets = plan_layers.networks(parts)
    for number, term in enumerate(parts.objective.terms):
        method = parts.methods.get(term.method)
        if method is None or not layer_parameters(method):
            continue
        where = f"objective.terms.{number}.params"
        missing = list(_missing(parts, where, term, method))
        yield from missing
        if nets is not None and not missing:
            yield from _comparable(where, term, method, nets)


def _missing(parts: Parts, where: str, term: Term, method: Method) -> Iterator[Problem]:
    profiles = {"student": parts.student_profile, "teacher": parts.teacher_profile}
    sides = layer_parameters(method)
    for side, chosen in plan_layers.named(term, method).items():
        profile = profiles[side]
        if profile is None or profile.status != ArchitectureProfile.Status.READY:
            continue
        paths = [layer["path"] for layer in profile.layers]
        for path in (path for path in chosen if path not in paths):
            yield Problem(
                f"{where}.{plan_layers.parameter(sides, side)}",
                path,
                _("%(network)s has no layer of this path.") % {"network": profile.architecture_id},
                closest(path, paths) or _("Leave it empty to pair the layers by stage."),
            )


def _comparable(where: str, term: Term, method: Method, nets: Networks) -> Iterator[Problem]:
    try:
        pairs = plan_layers.pairs(term, method, nets)
    except SpecError as error:
        yield Problem(f"{where}.{error.field}", error.value, spoken(error.problem), spoken(error.fix))
        return
    sides = layer_parameters(method)
    for pair in pairs:
        if wrong := plan_layers.unreadable(pair, nets.side):
            side = "student" if wrong is pair[0] else "teacher"
            yield Problem(
                f"{where}.{plan_layers.parameter(sides, side)}",
                wrong.path,
                _unreadable(side)
                % {"ours": plan_layers.shown(pair[0]), "theirs": plan_layers.shown(pair[1])},
                _("Choose a layer whose output is one of these."),
            )


def _unreadable(side: str) -> str:
    if side == "student":
        return _(
            "%(ours)s of the student cannot be compared with %(theirs)s of the teacher: the student's is "
            "neither a map, nor tokens, nor a vector."
        )
    return _(
        "%(ours)s of the student cannot be compared with %(theirs)s of the teacher: the teacher's is "
        "neither a map, nor tokens, nor a vector."
    )
