"""The layers that a term compares: those named, or those the engine's own rule pairs."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.translation import gettext as _

from experiments.models import ArchitectureProfile, Method
from experiments.plan_parts import Parts, layer_parameters
from worker.distill.pairing import Layer, layout, propose_pair, propose_pairs, stages
from worker.distill.spec import SpecError, Term

Pairs = list[tuple[Layer, Layer]]


@dataclass(frozen=True)
class Networks:
    """Both networks' layers as a worker listed them."""

    student: list[Layer]
    teacher: list[Layer]
    side: int  # of the square image they were listed at

    def of(self, side: str) -> list[Layer]:
        return self.student if side == "student" else self.teacher


def networks(parts: Parts) -> Networks | None:
    """None until both have been listed."""
    ours, theirs = parts.student_profile, parts.teacher_profile
    if ours is None or theirs is None:
        return None
    ready = ArchitectureProfile.Status.READY
    if (ours.status, theirs.status) != (ready, ready):
        return None
    return Networks(layers_of(ours), layers_of(theirs), ours.image_size)


def layers_of(profile: ArchitectureProfile) -> list[Layer]:
    return [Layer(one["path"], one.get("kind", ""), tuple(one["shape"])) for one in profile.layers]


def named(term: Term, method: Method | None) -> dict[str, list[str]]:
    """The paths that a term names, by side."""
    found: dict[str, list[str]] = {"student": [], "teacher": []}
    for name, side in layer_parameters(method).items():
        value = term.params.get(name) or []
        found[side] += [value] if isinstance(value, str) else [str(path) for path in value]
    return found


def pairs(term: Term, method: Method | None, nets: Networks) -> Pairs:
    """What the term will compare, shapes included. SpecError's field is a parameter of the method."""
    sides, paths = layer_parameters(method), named(term, method)
    if not sides or method is None:
        return []
    several = any(method.schema["properties"][name].get("type") == "array" for name in sides)
    chosen = {side: [_find(nets.of(side), path, side, sides) for path in paths[side]] for side in paths}
    ours, hints = chosen["student"], chosen["teacher"]
    if several:
        if len(ours) != len(hints):
            text = _("%(ours)s layers of the student are named and %(theirs)s of the teacher.")
            problem = text % {"ours": len(ours), "theirs": len(hints)}
            fix = _("Name as many on both sides, or none on both.")
            raise SpecError(parameter(sides, "student"), ", ".join(paths["student"]), problem, fix)
        return list(zip(ours, hints, strict=True)) or propose_pairs(nets.student, nets.teacher)
    if ours and hints:
        return [(ours[0], hints[0])]
    proposed = method.schema.get("proposed")
    if proposed == "engine":
        return []  # a rule of the method's own
    if proposed == "last":
        last = [(one or stages(nets.of(side)))[-1:] for one, side in ((ours, "student"), (hints, "teacher"))]
        return [(last[0][0], last[1][0])] if all(last) else []
    return [propose_pair(ours or nets.student, hints or nets.teacher)]


def parameter(sides: dict[str, str], side: str) -> str:
    """The parameter that names layers of a side."""
    return next((name for name, of in sides.items() if of == side), next(iter(sides)))


def _find(layers: list[Layer], path: str, side: str, sides: dict[str, str]) -> Layer:
    for layer in layers:
        if layer.path == path:
            return layer
    ours, theirs = _("the student has no layer of this path."), _("the teacher has no layer of this path.")
    raise SpecError(parameter(sides, side), path, ours if side == "student" else theirs)


def unreadable(pair: tuple[Layer, Layer], side: int) -> Layer | None:
    """The layer of a pair whose output is neither a map, nor tokens, nor a vector."""
    for layer in pair:
        try:
            layout(layer.shape, (side, side))
        except ValueError:
            return layer
    return None


def shown(layer: Layer) -> str:
    """layer2 (32×4×4)"""
    size = "×".join(map(str, layer.shape)) or _("one number")  # not inside: xgettext does not look there
    return f"{layer.path} ({size})"
