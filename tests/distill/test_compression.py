"""Costs of a network, against hand counts, real files and published numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from worker.distill import compression, models
from worker.distill.profile import profile
from worker.distill.spec import ProfileSpec, SpecError

CPU = torch.device("cpu")


def build(key: str, classes: int = 10, channels: int = 3, size: int = 32) -> nn.Module:
    return models.build(key, num_classes=classes, in_channels=channels, image_size=size)


@pytest.mark.parametrize("key", ["resnet8", "wrn-16-2", "vgg8", "shufflenetv2", "timm/vit_tiny_patch16_224"])
def test_bytes_are_those_of_the_file(key: str, tmp_path: Path) -> None:
    model = build(key)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    assert compression.weights_bytes(model) == (tmp_path / "weights.safetensors").stat().st_size


def test_bytes_are_of_fp32_whatever_the_model_computes_in() -> None:
    model = build("resnet8")
    assert compression.weights_bytes(model) == compression.weights_bytes(build("resnet8").half())


def test_flops_are_twice_the_multiply_adds_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    assert compression.flops(model, 3, 8) == 2 * (3 * 9 * 4 * 8 * 8 + 4 * 8 * 8 * 10)


@pytest.mark.parametrize(
    ("key", "giga_multiply_adds"), [("torchvision/resnet18", 1.814), ("torchvision/vit_b_16", 17.56)]
)
def test_flops_agree_with_the_librarys_published_numbers(key: str, giga_multiply_adds: float) -> None:
    with torch.device("meta"):
        model = build(key, classes=1000, size=224)
    assert compression.flops(model, 3, 224) / 2e9 == pytest.approx(giga_multiply_adds, rel=0.002)


def test_a_measure_has_every_key_of_a_result() -> None:
    model = build("resnet8", channels=1, size=8).train()
    found = compression.measure(model, (1, 8, 8), CPU)
    assert set(found) == {"parameters", "bytes", "flops", "latency_p50_ms", "latency_p95_ms"}
    assert 0 < found["latency_p50_ms"] <= found["latency_p95_ms"]
    assert model.training


def test_a_slower_network_has_a_longer_latency() -> None:
    fast, slow = build("resnet8", size=8), build("resnet56", size=8)
    p50_fast, _ = compression.latency(fast, (3, 8, 8), CPU)
    p50_slow, _ = compression.latency(slow, (3, 8, 8), CPU)
    assert p50_slow > 2 * p50_fast


def test_ratios_are_teacher_over_student() -> None:
    student = {"parameters": 10, "bytes": 50, "flops": 0, "latency_p50_ms": 2.0}
    teacher = {"parameters": 100, "bytes": 400, "flops": 5, "latency_p50_ms": 1.0}
    assert compression.compression(student, teacher) == {
        "parameters": 10.0,
        "bytes": 8.0,
        "flops": None,
        "latency_p50_ms": 0.5,
    }


def test_a_profile_describes_a_network_without_computing() -> None:
    spec = ProfileSpec(architecture="resnet20", num_classes=100, in_channels=3, image_size=32)
    found = profile(spec)
    assert found["parameters"] == 278_324
    assert found["layers"][0] == {"path": "conv1", "kind": "Conv2d", "shape": [16, 32, 32]}
    assert [stage["path"] for stage in found["stages"]] == ["layer1", "layer2", "layer3"]
    assert found["bytes"] == compression.weights_bytes(build("resnet20", classes=100))
    assert found["flops"] == compression.flops(build("resnet20", classes=100), 3, 32)


def test_a_network_that_computes_while_it_is_built_has_a_profile_too() -> None:
    spec = ProfileSpec(
        architecture="torchvision/regnet_y_400mf", num_classes=10, in_channels=1, image_size=32
    )
    assert profile(spec)["parameters"] == 3_906_978


def test_a_profile_of_what_cannot_be_is_refused() -> None:
    spec = ProfileSpec(architecture="torchvision/alexnet", num_classes=10, in_channels=3, image_size=32)
    with pytest.raises(SpecError, match="63×63"):
        profile(spec)
