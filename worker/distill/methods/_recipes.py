"""Training recipes that several methods' papers share."""

from __future__ import annotations

from typing import Any

# Tian et al. 2020 (RepDistiller) and every CIFAR-100 row of mdistiller: milestones at epochs 150, 180, 210.
CIFAR_100: dict[str, Any] = {
    "epochs": 240,
    "batch_size": 64,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": [0.625, 0.75, 0.875],
    "step_factor": 0.1,
}
CIFAR_100_LIGHT = CIFAR_100 | {"learning_rate": 0.01}  # MobileNetV2, ShuffleNetV1 and V2 students

IMAGENET: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 256,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": [0.3, 0.6, 0.9],
    "step_factor": 0.1,
}
