"""Rows that tests begin with, as small as they may be."""

from __future__ import annotations

from typing import Any

from experiments.models import Architecture, Dataset, Project, Run, Teacher
from experiments.models.catalogue import Readiness
from worker.distill.spec import Objective, Training


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
    return Run.objects.create(**(defaults | values))


def a_running_run(**values: Any) -> Run:
    return a_run(**({"status": Run.Status.RUNNING, "fence": 1, "lease_owner": "w1"} | values))
