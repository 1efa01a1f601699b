"""Tracing any network, choosing what to compare, tapping outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill import models
from worker.distill.layers import Tap, before_activation, trace
from worker.distill.pairing import Layer, propose_pair, stages
from worker.distill.spec import SpecError


def network(key: str, size: int = 32, channels: int = 3) -> nn.Module:
    with torch.device("meta"):
        return models.build(key, num_classes=10, in_channels=channels, image_size=size)


def layers_of(key: str, size: int = 32) -> list[Layer]:
    return trace(network(key, size), 3, size)


def points(key: str, size: int = 32) -> list[tuple[str, tuple[int, ...]]]:
    return [(layer.path, layer.shape) for layer in stages(layers_of(key, size))]


# ---- trace


def test_leaves_and_blocks_are_listed_in_the_order_of_their_outputs() -> None:
    found = layers_of("resnet8")
    paths = [layer.path for layer in found]
    assert paths[:6] == ["conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2"]
    assert paths.index("layer1.0") < paths.index("layer1") < paths.index("layer2.0.conv1")
    assert found[0] == Layer("conv1", "Conv2d", (16, 32, 32))
    assert found[-1] == Layer("fc", "Linear", (10,))


def test_traced_shapes_are_those_of_a_real_forward() -> None:
    model = models.build("shufflenetv2", num_classes=10, in_channels=1, image_size=20)
    real: dict[str, tuple[int, ...]] = {}
    for path, module in list(model.named_modules())[1:]:
        module.register_forward_hook(lambda m, i, o, path=path: real.__setitem__(path, tuple(o.shape[1:])))
    model(torch.zeros(2, 1, 20, 20))
    assert {layer.path: layer.shape for layer in trace(model, 1, (20, 20))} == real


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = models.build("resnet8", num_classes=10, in_channels=3, image_size=32)
    model.layer2.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, 3, 32)
    assert model.training
    assert not model.layer2.training
    assert model.layer3.training
    assert all(
        tensor.device.type == "cpu" and tensor.equal(before[n]) for n, tensor in model.state_dict().items()
    )
    assert all(not module._forward_hooks for module in model.modules())


def test_an_image_the_network_cannot_take_is_a_clear_error() -> None:
    with pytest.raises(SpecError) as caught:
        trace(network("resnet8"), 1, 32)
    assert caught.value.field == "image_size"
    assert "1 channels" in caught.value.problem


# ---- stages


def test_a_residual_network_has_a_stage_for_each_resolution() -> None:
    expected = [("layer1", (16, 32, 32)), ("layer2", (32, 16, 16)), ("layer3", (64, 8, 8))]
    assert points("resnet20") == expected
    assert [path for path, _ in points("wrn-16-2")] == ["block1", "block2", "block3"]
    assert [path for path, _ in points("vgg13")] == ["block0", "block1", "block2", "block4"]
    for key in ("shufflenetv1", "shufflenetv2"):
        assert [path for path, _ in points(key)] == ["layer1", "layer2", "layer3"]


@pytest.mark.parametrize(
    ("key", "size", "expected"),
    [
        ("torchvision/resnet18", 64, ["layer1", "layer2", "layer3", "layer4"]),
        ("torchvision/vgg11", 32, ["features.1", "features.4", "features.9", "features.14", "features.19"]),
        (
            "torchvision/mobilenet_v2",
            64,
            ["features.1", "features.3", "features.6", "features.13", "features"],
        ),
        ("timm/efficientnet_b0", 64, ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"]),
        ("torchvision/swin_t", 64, ["features.1", "features.3", "features.5", "features"]),
        (
            "timm/levit_128s",
            224,
            ["stem.conv1", "stem.conv2", "stem.conv3", "stages.0", "stages.1", "stages"],
        ),
        ("torchvision/densenet121", 64, [f"features.denseblock{i}" for i in (1, 2, 3)] + ["features"]),
    ],
)
def test_a_pyramid_of_another_kind_has_its_stages_too(key: str, size: int, expected: list[str]) -> None:
    assert [path for path, _ in points(key, size)] == expected


def test_a_transformer_has_a_stage_for_each_quarter_of_its_blocks() -> None:
    found = points("timm/vit_tiny_patch16_224", 64)
    assert found == [(f"blocks.{i}", (17, 192)) for i in (2, 5, 8, 11)]
    assert [path.rsplit("_", 1)[1] for path, _ in points("torchvision/vit_b_32", 64)] == ["2", "5", "8", "11"]


def test_attention_maps_are_no_stages() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.linear = nn.Dropout(0.1), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            weights = self.drop((x @ x.mT).softmax(-1)[:, None].expand(-1, 4, -1, -1))  # (B, 4, N, N)
            out: Tensor = self.linear(weights[:, 0] @ x)
            return out

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.blocks = nn.Sequential(*(Attention() for _ in range(3)))
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.blocks(self.patch(x).flatten(2).mT).mean(1))
            return out

    assert [layer.path for layer in stages(trace(Net(), 3, 32))] == ["blocks.0", "blocks.1", "blocks.2"]


def test_oblong_images_have_stages() -> None:
    found = stages(trace(network("resnet8"), 3, (32, 20)))
    assert [(layer.path, layer.shape[1:]) for layer in found] == [
        ("layer1", (32, 20)),
        ("layer2", (16, 10)),
        ("layer3", (8, 5)),
    ]


# ---- pairs


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ("resnet8", "resnet56", ("layer2", "layer2")),
        ("resnet8x4", "wrn-40-2", ("layer2", "block2")),
        ("shufflenetv1", "resnet32x4", ("layer2", "layer3")),  # both 8×8
        ("mobilenetv2-half", "vgg13", ("blocks.4", "block4")),  # both 4×4
        ("resnet20", "timm/vit_tiny_patch16_224", ("layer2", "blocks.8")),
    ],
)
def test_the_students_middle_stage_meets_the_teachers_of_its_resolution(
    student: str, teacher: str, expected: tuple[str, str]
) -> None:
    ours, theirs = propose_pair(layers_of(student), layers_of(teacher))
    assert (ours.path, theirs.path) == expected


def test_a_chosen_layer_is_kept_and_the_other_side_matched_to_it() -> None:
    student, teacher = layers_of("resnet8"), layers_of("resnet56")
    chosen = next(layer for layer in student if layer.path == "layer3.0")
    assert propose_pair([chosen], teacher)[1].path == "layer3"
    hint = next(layer for layer in teacher if layer.path == "layer1.4")
    assert propose_pair(student, [hint]) == (next(x for x in student if x.path == "layer1"), hint)


def test_a_network_without_hidden_maps_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(SpecError) as caught:
        propose_pair(trace(model, 3, 32), layers_of("resnet8"))
    assert caught.value.field == "student_layer"


# ---- taps


class Overwriting(nn.Module):
    """A layer whose output the next one overwrites, as torchvision's in-place ReLU does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.act(self.conv(x)))
        return out


def test_a_tap_gives_what_the_layer_returned_with_its_gradient() -> None:
    model = models.build("resnet8", num_classes=10, in_channels=1, image_size=16)
    x = torch.randn(2, 1, 16, 16)
    with Tap(model, ["layer2", "layer1.0.conv1"]) as tap:
        model(x)
        outputs = tap.outputs
    assert list(outputs) == ["layer2", "layer1.0.conv1"]
    stem = F.relu(model.bn1(model.conv1(x)))
    torch.testing.assert_close(outputs["layer1.0.conv1"], model.layer1[0].conv1(stem))
    outputs["layer2"].sum().backward()
    assert model.conv1.weight.grad is not None
    assert model.fc.weight.grad is None


@pytest.mark.parametrize("inference", [False, True])
def test_a_tap_survives_layers_that_overwrite(inference: bool) -> None:
    torch.manual_seed(0)
    model = Overwriting()
    with Tap(model, ["conv"]) as tap:
        for _ in range(3):  # the tap learns from the first forward which outputs need a copy
            x = torch.randn(2, 1, 8, 8)
            with torch.inference_mode(inference):
                model(x)
            torch.testing.assert_close(tap.outputs["conv"], F.conv2d(x, model.conv.weight, model.conv.bias))
            assert tap.outputs["conv"].min() < 0


def test_an_output_nobody_overwrites_is_not_copied_for_long() -> None:
    model = Overwriting()
    seen: list[Tensor] = []
    model.last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with Tap(model, ["last"]) as tap:
        for _ in range(2):
            model(torch.randn(2, 1, 8, 8))
        assert tap.outputs["last"] is seen[-1]


def test_outputs_of_an_inference_mode_teacher_may_enter_a_students_loss() -> None:
    teacher, student = Overwriting(), Overwriting()
    x = torch.randn(2, 1, 8, 8)
    with Tap(teacher, ["conv"]) as hint, Tap(student, ["conv"]) as ours:
        with torch.inference_mode():
            teacher(x)
        student(x)
        F.mse_loss(ours.outputs["conv"], hint.outputs["conv"]).backward()
    assert student.conv.weight.grad is not None
    assert not hint._handles


def test_leaving_a_tap_removes_its_hooks_and_it_can_be_entered_again() -> None:
    model = Overwriting()
    tap = Tap(model, ["conv"])
    for _ in range(2):
        with tap:
            model(torch.zeros(1, 1, 8, 8))
            assert tap.outputs["conv"].shape == (1, 2, 6, 6)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_tap_of_nothing_is_empty() -> None:
    with Tap(Overwriting(), []) as tap:
        assert tap.outputs == {}


def test_a_path_that_does_not_exist_names_close_ones() -> None:
    with pytest.raises(SpecError) as caught:
        Tap(network("resnet8"), ["layer4"], field="teacher_layer")
    assert caught.value.field == "teacher_layer"
    assert caught.value.value == "layer4"
    assert "layer3" in caught.value.fix


def test_a_layer_that_does_not_run_is_named() -> None:
    model = Overwriting()
    model.spare = nn.Linear(1, 1)
    with Tap(model, ["spare"]) as tap:
        model(torch.zeros(1, 1, 8, 8))
        with pytest.raises(SpecError, match="spare"):
            _ = tap.outputs


# ---- before activations


def traced(model: nn.Module, channels: int, size: int) -> dict[str, Layer]:
    return {layer.path: layer for layer in trace(model, channels, size)}


@pytest.mark.parametrize(
    ("key", "layer", "activation"),
    [
        ("resnet8", "layer2", "layer2.0.relu"),
        ("vgg8", "block1", "block1.2"),
        ("shufflenetv1", "layer2", "layer2.7.relu"),
        ("mobilenetv2-half", "conv2", "conv2.2"),
    ],
)
def test_a_layer_knows_the_activation_it_ends_with(key: str, layer: str, activation: str) -> None:
    model = models.build(key, num_classes=4, in_channels=3, image_size=16).eval()
    found = traced(model, 3, 16)[layer]
    assert found.activation == activation
    before = before_activation(found)
    assert (before.path, before.shape) == (f"{activation}:input", found.shape)
    assert before_activation(before) == before
    with Tap(model, [layer, before.path]) as tap, torch.no_grad():
        model(torch.randn(2, 3, 16, 16))
        assert torch.equal(F.relu(tap.outputs[before.path]), tap.outputs[layer])
        assert (tap.outputs[before.path] < 0).any()


@pytest.mark.parametrize(
    ("key", "layer"),
    [("wrn-16-2", "block2"), ("mobilenetv2-half", "blocks.2"), ("shufflenetv2", "layer2"), ("resnet8", "fc")],
)
def test_a_layer_that_ends_without_an_activation_is_taken_as_it_is(key: str, layer: str) -> None:
    found = next(other for other in layers_of(key) if other.path == layer)
    assert found.activation == ""
    assert before_activation(found) == found


def test_an_activation_that_follows_a_layer_in_place_is_not_the_layers_own() -> None:
    found = traced(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True)), 1, 4)
    assert {path: layer.activation for path, layer in found.items()} == {"0": "", "1": "1"}


def test_an_activation_in_place_spoils_nothing_before_it() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(inplace=True)))
    layer = traced(model, 1, 4)["1"]
    assert layer.activation == "1.1"
    with Tap(model, ["1.1:input"]) as tap:
        for _ in range(2):  # the second time, the tap knows whether a copy is needed
            model(torch.randn(2, 1, 4, 4))
            assert (tap.outputs["1.1:input"] < 0).any()


@pytest.mark.parametrize("inference", [False, True])
def test_one_activation_that_a_block_uses_twice_counts_where_it_was_used_last(inference: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.relu(self.second(self.relu(self.first(x))) + x)
            return out

    model = nn.Sequential(Block(), nn.Flatten())
    assert traced(model, 1, 4)["0"].activation == "0.relu"
    with Tap(model, ["0.relu:input", "0"]) as tap, torch.inference_mode(inference):
        for _ in range(2):
            model(torch.randn(4, 1, 4, 4))
            assert torch.equal(F.relu(tap.outputs["0.relu:input"]), tap.outputs["0"])
            assert (tap.outputs["0.relu:input"] < 0).any()


def test_a_path_before_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        Tap(network("resnet8"), ["layer3.0.gelu:input"])
    assert caught.value.value == "layer3.0.gelu:input"
    assert "layer3.0" in caught.value.fix
