"""Whom and what the made-up runs of `_many` stand on: people, datasets, networks, teachers, experiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PASSWORD = "many-many-many"
CIFAR = [f"class {n}" for n in range(100)]
TEN = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# Students: parameters, FLOPs, ms, and how far below a perfect network they stay on a hard task.
NETWORKS: dict[str, tuple[int, int, float, float]] = {
    "resnet8": (78_042, 25_300_000, 0.62, 0.115),
    "resnet14": (175_000, 53_800_000, 1.1, 0.075),
    "resnet20": (272_474, 82_300_000, 1.6, 0.055),
    "mobilenet_v2": (2_296_922, 182_000_000, 3.9, 0.045),
    "shufflenet_v2": (1_263_854, 90_400_000, 3.1, 0.060),
    "vgg8": (3_920_000, 193_000_000, 0.9, 0.050),
    "resnet56": (855_770, 255_000_000, 4.4, 0.025),
    "wrn_40_2": (2_243_546, 662_000_000, 6.2, 0.010),
    "resnet32x4": (7_408_298, 2_170_000_000, 9.8, 0.0),
}
TEACHERS = ("resnet56", "wrn_40_2", "resnet32x4")
PEOPLE = ("ada", "ben", "chen", "dora", "emil", "fay")


@dataclass
class Ground:
    """The rows that runs stand on."""

    project: Any
    people: list[Any]
    datasets: list[Any]
    students: dict[str, Any]
    teachers: dict[int, list[Any]]  # of each dataset
    experiments: list[Any]


def prepare(name: str) -> Ground:
    from django.contrib.auth.models import User

    from experiments.models import Architecture, Dataset, Experiment, Membership, Project, Student, Teacher

    project, _ = Project.objects.get_or_create(name=name, defaults={"slug": name.lower().replace(" ", "-")})
    people = [User.objects.get_or_create(username=person)[0] for person in PEOPLE]
    me, new = User.objects.get_or_create(username="many")
    if new:
        me.set_password(PASSWORD)
        me.save()
    for person in (me, *people):
        Membership.objects.get_or_create(project=project, user=person, defaults={"role": "maintainer"})
    for key, (size, flops, _ms, _gap) in NETWORKS.items():
        values = {"title": key, "family": key.rstrip("0123456789x_"), "source": "kdweb"}
        Architecture.objects.get_or_create(key=key, defaults=values | {"parameters": size, "flops": flops})
    shape = {"channels": 3, "height": 32, "width": 32, "status": "ready"}
    datasets = [
        Dataset.objects.create(project=project, name=name, kind="folder", classes=classes, **shape)
        for name, classes in (("cifar10", TEN), ("cifar100", CIFAR), ("parts-v3", TEN[:7]))
    ]
    students = {
        key: Student.objects.create(project=project, name=f"{key} student", architecture_id=key)
        for key in list(NETWORKS)[:6]
    }
    teachers = {
        data.pk: [
            Teacher.objects.create(
                project=project, name=f"{key} on {data.name}", architecture_id=key, dataset=data,
                source="uploaded", status="ready", metrics=network(key, best(data.name, key), 0, data),
            )
            for key in TEACHERS
        ]
        for data in datasets
    }  # fmt: skip
    experiments = [
        Experiment.objects.create(project=project, name=title)
        for title in ("Which temperature", "Smaller than 100 k", "Layers or logits", "For the release")
    ]
    return Ground(project, people, datasets, students, teachers, experiments)


def best(data: str, network: str) -> float:
    """What the network reaches alone."""
    top, hardness = {"cifar10": (0.955, 0.6), "cifar100": (0.795, 1.6), "parts-v3": (0.985, 0.3)}[data]
    return top - hardness * NETWORKS[network][3]


def network(key: str, top1: float, seed: int, data: Any, confusion: bool = False) -> dict[str, Any]:
    """What the engine measures of a network at the end of a run."""
    random = np.random.default_rng(seed)
    size, flops, latency, _ = NETWORKS[key]
    classes = len(data.classes)
    per_class = np.clip(top1 + random.normal(0, 0.04, classes), 0, 1).round(4)
    measured: dict[str, Any] = {
        "score": top1, "top1": top1, "top5": round(min(1.0, top1 + 0.6 * (1 - top1)), 4),
        "loss": round(1.9 * (1 - top1), 4), "ece": round(float(abs(random.normal(0.04, 0.02))), 4),
        "reliability": [{"count": 600, "confidence": n / 15, "accuracy": n / 16} for n in range(15)],
        "per_class": per_class.tolist(), "split": "test", "parameters": size, "bytes": 4 * size + 6200,
        "bytes_fp16": 2 * size + 6200, "bytes_int8": size + 9100, "flops": flops, "peak_memory": 9 * size,
        "latency_p50_ms": round(latency * random.normal(1, 0.03), 3),
        "latency_p95_ms": round(latency * 1.2, 3), "throughput": round(1e3 / latency, 1),
        "hardware": "NVIDIA L4",
    }  # fmt: skip
    if confusion:
        counts = np.diag((per_class * 100).astype(int)) + random.integers(0, 2, (classes, classes))
        measured["confusion"] = counts.tolist()
    return measured
