"""What feature methods share: which layers, and numbers wide enough to reckon with."""

from __future__ import annotations

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from worker.distill.bridge import meet, to_map
from worker.distill.layers import before_activation
from worker.distill.methods import Pair
from worker.distill.methods._norm import BatchNorm
from worker.distill.pairing import Layer, Layout, layout, propose_pair, propose_pairs, stages
from worker.distill.spec import SpecError, Strict


def wide(x: Tensor) -> Tensor:
    """fp32 at least: half precision is for networks, not for losses."""
    return x if x.dtype == torch.float64 else x.float()


class OnePair(Strict):
    """Parameters of a method that compares one layer with one layer."""

    student_layer: str = Field(
        "",
        max_length=300,
        title="Student layer",
        description="Module path, e.g. layer3. Empty: the layer that matches the teacher's.",
        json_schema_extra={"layer_of": "student"},
    )
    teacher_layer: str = Field(
        "",
        max_length=300,
        title="Teacher layer",
        description="Module path. Empty: chosen by stage and resolution.",
        json_schema_extra={"layer_of": "teacher"},
    )


class LastPair(OnePair):
    """As OnePair for a method of embeddings: a layer that is not named is the network's last stage."""

    model_config = ConfigDict(json_schema_extra={"proposed": "last"})  # so that forms propose the same


class SeveralPairs(Strict):
    """Parameters of a method that compares several layers, first with first, second with second."""

    student_layers: list[str] = Field(
        [],
        max_length=16,
        title="Student layers",
        description="Module paths, e.g. layer1, layer2. Empty: one for each stage.",
        json_schema_extra={"layer_of": "student"},
    )
    teacher_layers: list[str] = Field(
        [],
        max_length=16,
        title="Teacher layers",
        description="As many, in the same order. Empty: matched by stage and resolution.",
        json_schema_extra={"layer_of": "teacher"},
    )


def one_pair(pair: Pair, params: OnePair) -> tuple[Layer, Layer]:
    """The layers named, or the student's middle stage and what matches it."""
    ours = [pair.layer("student", params.student_layer)] if params.student_layer else pair.student_layers
    hints = [pair.layer("teacher", params.teacher_layer)] if params.teacher_layer else pair.teacher_layers
    return (ours[0], hints[0]) if len(ours) == len(hints) == 1 else propose_pair(ours, hints)


def last_pair(pair: Pair, params: LastPair) -> tuple[Layer, Layer]:
    """The layers named, or both networks' last stages: the features before pooling."""
    ours = [pair.layer("student", params.student_layer)] if params.student_layer else None
    hints = [pair.layer("teacher", params.teacher_layer)] if params.teacher_layer else None
    return (ours or _last(pair.student_layers, "student"))[-1], (
        hints or _last(pair.teacher_layers, "teacher")
    )[-1]


def read(pair: Pair, layer: Layer, field: str) -> Layout:
    """How the layer's output is read as a map or, pooled, as a vector. SpecError for `field` otherwise."""
    try:
        return layout(layer.shape, pair.image[1:])
    except ValueError as error:
        fix = "Choose a layer whose output is a map, tokens or a vector."
        raise SpecError(field, layer.path, f"{error}.", fix) from error


def read_pairs(pair: Pair, layers: list[tuple[Layer, Layer]]) -> list[tuple[Layout, Layout]]:
    """How each layer of `several_pairs` is read."""
    return [(read(pair, a, "student_layers"), read(pair, b, "teacher_layers")) for a, b in layers]


def _last(layers: list[Layer], side: str) -> list[Layer]:
    found = stages(layers)
    if not found:
        raise SpecError(f"{side}_layer", "", "no hidden layer was found.", "Name a layer by its path.")
    return found


def several_pairs(pair: Pair, params: SeveralPairs, least: int = 1) -> list[tuple[Layer, Layer]]:
    """The layers named, or a pair for every stage. SpecError for fewer than `least`, or unequal numbers."""
    ours, hints = params.student_layers, params.teacher_layers
    if not ours and not hints:
        found = propose_pairs(pair.student_layers, pair.teacher_layers)
    elif len(ours) != len(hints):
        fix = "Name as many layers of the teacher as of the student, or none on both sides."
        problem = f"{len(ours)} layers of the student are named and {len(hints)} of the teacher."
        raise SpecError("student_layers", ours, problem, fix)
    else:
        found = [
            (_named(pair, "student", a), _named(pair, "teacher", b)) for a, b in zip(ours, hints, strict=True)
        ]
    if len(found) < least:
        fix = "Name layers by their paths."
        raise SpecError("student_layers", [a.path for a, _ in found], f"it needs {least} pairs.", fix)
    return found


def _named(pair: Pair, side: str, path: str) -> Layer:
    try:
        return pair.layer("student" if side == "student" else "teacher", path)
    except SpecError as error:
        raise SpecError(f"{side}_layers", path, error.problem, error.fix) from error


def before_activations(pair: Pair, params: SeveralPairs) -> list[tuple[Layer, Layer]]:
    """The pairs of `several_pairs`, each layer before its activation where it ends with one."""
    return [
        (before_activation(student), before_activation(teacher))
        for student, teacher in several_pairs(pair, params)
    ]


class Connector(nn.Module):
    """(F_s, F_t) → maps of one shape: the student's through 1×1 convolution and batch norm."""

    def __init__(self, pair: Pair, student: Layer, teacher: Layer) -> None:
        super().__init__()
        [(self.student, self.teacher)] = read_pairs(pair, [(student, teacher)])
        self.channels = self.teacher.channels
        self.conv = nn.Conv2d(self.student.channels, self.channels, 1, bias=False)
        self.norm = BatchNorm(self.channels)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        s, t = meet(to_map(self.student, student), to_map(self.teacher, teacher))
        return self.norm(self.conv(s)), t
