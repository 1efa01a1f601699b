"""Distillation methods: one file each, found by listing this folder. The file's name is the method's key.

A file holds a pure function `loss(...)` (the paper's formula, tested against reference values) and a
class `Method` that says what the method is called, which parameters it takes and what it needs. Nothing
else in the project names a method: forms, help pages, curves and the API follow from the class.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor, nn

from worker.distill.layers import INPUT, before_activation, trace
from worker.distill.pairing import Layer
from worker.distill.spec import Preset, SpecError, Strict

Side = Literal["student", "teacher"]
Need = Literal["logits", "features", "labels", "index", "views"]
TaskForm = Literal["single-label", "multi-label"]


@dataclass(frozen=True)
class Pair:
    """Student and teacher before training starts, and an example of what they will be fed."""

    student: nn.Module
    teacher: nn.Module
    image: tuple[int, int, int]  # (C, H, W)
    num_classes: int
    labels: Tensor | None = None  # of the training split: (N,), or (N, C) of zeros and ones for multi-label
    task: TaskForm = "single-label"
    seed: int = 0
    teacher_classes: int | None = None  # of a teacher with a label set of its own

    @cached_property
    def student_layers(self) -> list[Layer]:
        return trace(self.student, self.image[0], self.image[1:])

    @cached_property
    def teacher_layers(self) -> list[Layer]:
        return trace(self.teacher, self.image[0], self.image[1:])

    def layer(self, side: Side, path: str) -> Layer:
        """The layer at a module path, or what it is given (see Tap). SpecError's field: `<side>_layer`."""
        layers = self.student_layers if side == "student" else self.teacher_layers
        found = next((layer for layer in layers if layer.path == path), None)
        if found is None and path.endswith(INPUT):  # an activation's input has its output's shape
            found = next(
                (before_activation(layer) for layer in layers if layer.activation == path[: -len(INPUT)]),
                None,
            )
        if found is None:
            known = ", ".join(layer.path for layer in layers if layer.path)
            fix = f"Choose one of: {known[:400]}."
            raise SpecError(f"{side}_layer", path, f"the {side} has no such layer.", fix)
        return found


@dataclass(frozen=True)
class Logits:
    """Both networks' answers to one view of the batch. Shapes (B, C); teachers may have other classes."""

    student: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class Step:
    """What a method sees of one optimiser step. The teacher's tensors carry no gradient."""

    labels: Tensor  # (B,), the class of the larger part under mixup; multi-label (B, C) of zeros and ones
    index: Tensor  # (B,) positions in the training split
    student_logits: Tensor  # (B, C)
    teacher_logits: Tensor  # (B, C)
    student_features: Mapping[str, Tensor] = field(default_factory=dict)  # by module path
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    student_vectors: Mapping[str, Tensor] = field(default_factory=dict)  # pooled: (B, C) by module path
    teacher_vectors: Mapping[str, Tensor] = field(default_factory=dict)
    strong: Logits | None = None  # of a strongly augmented view, where a method needs "views"
    task: TaskForm = "single-label"
    number: int = 0  # of the step in its phase, from 0
    epoch: float = 0.0  # how far the phase is, in epochs
    epochs: int = 1  # of the phase


class Method(nn.Module):
    """The contract. Modules and parameters set as attributes are the method's own trainable parts.

    They are optimised with the student, saved for resume, and never exported. Randomness: draw in `setup`
    as you like (it is seeded); in `forward` only as a function of `step.number` and the pair's seed.
    """

    title: ClassVar[str]
    paper: ClassVar[str]
    paper_url: ClassVar[str]
    formula: ClassVar[str]  # readable as text
    summary: ClassVar[str]  # what it does, when to use it
    needs: ClassVar[tuple[Need, ...]] = ("logits",)
    task_forms: ClassVar[tuple[TaskForm, ...]] = ("single-label",)
    presets: ClassVar[tuple[Preset, ...]] = ()
    prelude_only: ClassVar[bool] = False  # the method is over when its first stage is: it initialises

    class Params(Strict):
        """No parameters."""

    def __init__(self, params: Strict) -> None:
        super().__init__()
        self.params = params
        self.student_paths: tuple[str, ...] = ()  # the layers whose outputs `forward` wants in Step
        self.teacher_paths: tuple[str, ...] = ()
        self.student_vectors: tuple[str, ...] = ()  # the layers whose pooled outputs it wants
        self.teacher_vectors: tuple[str, ...] = ()

    def setup(self, pair: Pair) -> None:
        """Pick layers, build own parts. SpecError's field is the parameter's name."""

    def forward(self, step: Step) -> Tensor:
        raise NotImplementedError

    @property
    def prelude_epochs(self) -> int:
        """Epochs of a first stage, before the main part of the run; 0: there is none."""
        return 0

    def prelude(self, step: Step) -> Tensor:
        """The loss of the first stage. A method that is more than that prepares its own parts there, and
        sees nothing of the student."""
        raise NotImplementedError

    def dials(self, step: Step) -> dict[str, Tensor | float]:
        """What moves during training and is drawn over time, such as {"temperature": T}."""
        return {}

    def graft(self, student: nn.Module) -> nn.Module:
        """The network to train and to export instead; most methods leave the student as it is."""
        return student


@dataclass(frozen=True)
class Found:
    methods: dict[str, type[Method]]
    broken: dict[str, str]  # key → why the file could not be used


def find(folder: Path, package: str) -> Found:
    """The methods in a folder. A file that cannot be imported is reported and harms no other."""
    found = Found({}, {})
    for path in sorted(folder.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        try:
            found.methods[path.stem] = importlib.import_module(f"{package}.{path.stem}").Method
        except Exception as error:
            found.broken[path.stem] = f"{type(error).__name__}: {error}"
    return found


@cache
def discover() -> Found:
    return find(Path(__file__).parent, __name__)


def get(key: str) -> type[Method]:
    """The method's class. SpecError for an unknown or broken one."""
    found = discover()
    if key in found.methods:
        return found.methods[key]
    if key in found.broken:
        problem = f"the method's file cannot be used ({found.broken[key]})."
        raise SpecError("method", key, problem, "Choose another method or repair the file.")
    raise SpecError("method", key, "there is no such method.", f"Choose one of: {', '.join(found.methods)}.")
