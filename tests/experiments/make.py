"""Rows that tests begin with, as small as they may be."""

from __future__ import annotations

from typing import Any

from experiments import run_values
from experiments.models import Architecture, ArchitectureProfile, Dataset, Method, Project, Run, Teacher
from experiments.models.catalogue import Readiness
from worker.distill.spec import Objective, Training

BOTH = ["single-label", "multi-label"]


def a_layer(side: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "default": "", "layer_of": side} | more


KD = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"temperature": {"type": "number", "default": 4.0, "minimum": 0.05, "maximum": 100}},
}
FITNET = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"student_layer": a_layer("student"), "teacher_layer": a_layer("teacher")},
}
AT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        f"{side}_layers": a_layer(side, type="array", items={"type": "string"}, default=[], maxItems=16)
        for side in ("student", "teacher")
    },
}


def methods() -> None:
    """One that compares answers, one that compares a layer, as the workers publish them."""
    Method.objects.create(key="kd", title="KD", schema=KD, needs=["logits"], tasks=BOTH)
    Method.objects.create(key="fitnet", title="FitNet", schema=FITNET, needs=["features"], tasks=BOTH)


def profiled(architecture: str, name: str, width: int, **values: Any) -> None:
    """A worker has listed the layers of a network with three stages, at 8×8."""
    layers: list[dict[str, Any]] = []
    for n in range(3):
        shape = [width << n, 8 >> n, 8 >> n]
        layers += [
            {"path": f"{name}{n + 1}{part}", "kind": "Block", "shape": shape} for part in (".conv", "")
        ]
    layers.append({"path": "fc", "kind": "Linear", "shape": [10]})
    stages = [{"path": layer["path"], "shape": layer["shape"]} for layer in layers[1:-1:2]]
    ready = {"status": "ready", "layers": layers, "stages": stages} | values
    keys = {"num_classes": 10, "in_channels": 1, "image_size": 8}
    ArchitectureProfile.objects.update_or_create(
        architecture=an_architecture(architecture), **keys, defaults=ready
    )


def a_project(name: str = "Team") -> Project:
    return Project.objects.get_or_create(name=name, defaults={"slug": name.lower()})[0]


def an_architecture(key: str = "resnet8") -> Architecture:
    found, _ = Architecture.objects.get_or_create(
        key=key, defaults={"title": key, "family": "resnet", "source": "kdweb"}
    )
    return found


def a_dataset(name: str = "digits", **values: Any) -> Dataset:
    defaults = {"kind": "digits", "status": Readiness.READY, "classes": [str(n) for n in range(10)]}
    return Dataset.objects.get_or_create(
        project=a_project(), name=name, defaults=defaults | {"channels": 1, "height": 8, "width": 8} | values
    )[0]


def a_teacher(name: str = "big", **values: Any) -> Teacher:
    defaults: dict[str, Any] = {
        "project": a_project(),
        "architecture": an_architecture(),
        "dataset": a_dataset(),
        "source": Teacher.Source.TRAINED,
        "status": Readiness.READY,
    }
    return Teacher.objects.create(name=name, **(defaults | values))


def a_run(**values: Any) -> Run:
    defaults: dict[str, Any] = {
        "project": a_project(),
        "name": "a run",
        "purpose": Run.Purpose.CONTROL,
        "dataset": a_dataset() if "dataset" not in values else None,
        "architecture": an_architecture(),
        "training": Training().model_dump(),
        "objective": Objective().model_dump(),
    }
    run = Run.objects.create(**(defaults | values))
    run_values.made(run)
    return run


def a_running_run(**values: Any) -> Run:
    return a_run(**({"status": Run.Status.RUNNING, "fence": 1, "lease_owner": "w1"} | values))
