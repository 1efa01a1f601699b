"""Costs of a network, against hand counts, real files and published numbers."""

from __future__ import annotations

import time
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


@pytest.mark.parametrize("key", ["resnet8", "shufflenetv2"])
def test_bytes_as_fp16_are_those_of_the_halved_networks_file(key: str, tmp_path: Path) -> None:
    found = compression.measure(build(key), (3, 32, 32), CPU)
    save_file(build(key).half().state_dict(), tmp_path / "half.safetensors")
    assert found["bytes_fp16"] == (tmp_path / "half.safetensors").stat().st_size


@pytest.mark.parametrize("key", ["vgg8", "timm/vit_tiny_patch16_224", "torchvision/vit_b_16"])
def test_a_network_of_large_layers_is_a_quarter_as_large_in_int8(key: str) -> None:
    model = build(key)
    share = compression.serialised_bytes(compression.quantised(model)) / compression.weights_bytes(model)
    assert 0.25 < share < 0.27


def test_a_quantised_weight_is_at_most_half_a_step_off_in_every_channel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(5, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 6))
    model[0].weight.data[1] = 0  # a dead channel
    model[3].weight.data[2] *= 1000  # a loud one does not drown the others
    state = compression.quantised(model)
    for name, shape in (("0.weight", (5, 1, 1, 1)), ("1.weight", (1, 2, 1, 1)), ("3.weight", (6, 1))):
        scale = state[f"{name}.scale"].view(shape)
        error = (state[name].float() * scale - model.get_parameter(name)).abs()
        assert state[name].dtype == torch.int8
        assert (error <= scale / 2 * 1.0001).all()
    assert torch.equal(state["2.running_var"], model[2].running_var)
    assert state["0.bias"].dtype == torch.float32


def test_shared_weights_are_stored_once() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    apart = compression.serialised_bytes(compression.quantised(model))
    model[1].weight = model[0].weight
    assert compression.serialised_bytes(compression.quantised(model)) < apart - 64 * 64


def test_the_fullest_moment_of_a_forward_counted_by_hand() -> None:
    """The second layer holds its input (8 maps) and its output (16 maps), beside the image."""
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 16, 1), nn.ReLU(inplace=True), nn.Flatten())
    weights = 4 * (8 + 8 + 128 + 16)
    for batch in (1, 3):
        expected = weights + 4 * 6 * 6 * batch * (1 + 8 + 16)
        assert compression.peak_memory(model, (1, 6, 6), CPU, batch) == expected


def test_what_a_shortcut_keeps_alive_counts() -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.widen, self.body = nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = self.widen(x)
            return kept + self.body(self.body(kept))

    # Weights 4 + 16, the input, and three tensors of 4 maps: kept, the body's input, the body's output.
    assert compression.peak_memory(Shortcut(), (1, 5, 5), CPU) == 4 * (20 + 25 + 3 * 4 * 25)


def test_throughput_finds_the_batch_that_gets_most_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward takes 2 ms and then 0.1 ms an image, and 3 ms an image beyond a batch of 8."""

    class Waiting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002 + 0.0001 * len(x) if len(x) <= 8 else 0.003 * len(x))
            return x

    monkeypatch.setattr(compression, "MEASURE_SECONDS", 5.0)
    rate, batch = compression.throughput(Waiting(), (1, 2, 2), CPU)
    assert batch == 8
    assert 0.5 * 8 / 0.0028 < rate < 8 / 0.0028


def test_throughput_keeps_to_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MEASURE_SECONDS", 0.3)
    start = time.perf_counter()
    compression.throughput(build("resnet20"), (3, 32, 32), CPU)
    assert time.perf_counter() - start < 3


def test_a_measure_has_every_key_of_a_result() -> None:
    model = build("resnet8", channels=1, size=8).train()
    found = compression.measure(model, (1, 8, 8), CPU)
    assert set(found) == {
        *("parameters", "bytes", "bytes_fp16", "bytes_int8", "flops", "hardware"),
        *("peak_memory", "peak_memory_best", "peak_memory_is", "throughput", "throughput_batch"),
        *("latency_p50_ms", "latency_p95_ms"),
    }
    assert 0 < found["latency_p50_ms"] <= found["latency_p95_ms"]
    assert found["bytes"] < found["peak_memory"] <= found["peak_memory_best"]
    assert "CPU" in found["hardware"]
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
        "bytes_fp16": None,
        "bytes_int8": None,
        "flops": None,
        "peak_memory": None,
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
