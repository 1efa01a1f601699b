"""Every network of ours keeps the contract; the libraries' networks fit any channels and classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worker.distill import models
from worker.distill.models.base import fit_stem
from worker.distill.spec import SpecError

OURS = [key for key, a in models.architectures().items() if a.source == "kdweb"]
# Millions of parameters at 100 classes, as published with RepDistiller and mdistiller
LITERATURE = {
    "resnet20": 0.278,
    "resnet32": 0.473,
    "resnet56": 0.862,
    "resnet110": 1.737,
    "resnet8x4": 1.233,
    "resnet32x4": 7.434,
    "wrn-16-2": 0.703,
    "wrn-40-1": 0.570,
    "wrn-40-2": 2.255,
    "wrn-28-10": 36.537,
    "vgg8": 3.965,
    "vgg13": 9.462,
    "mobilenetv2-half": 0.813,
    "shufflenetv1": 0.949,
    "shufflenetv2": 1.356,
}


def build(key: str, classes: int = 10, channels: int = 3, size: int = 32) -> nn.Module:
    return models.build(key, num_classes=classes, in_channels=channels, image_size=size)


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (1, 8), (4, 40)])
@pytest.mark.parametrize("key", [key for key in OURS if key != "wrn-28-10"])  # seconds a case
def test_our_networks_learn_from_any_channels_and_sizes(key: str, channels: int, size: int) -> None:
    torch.manual_seed(0)
    model = build(key, classes=7, channels=channels, size=size)
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("key", LITERATURE)
def test_parameter_counts_are_the_literatures(key: str) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in build(key, classes=100).parameters())
    assert count / 1e6 == pytest.approx(LITERATURE[key], abs=0.0006)


@pytest.mark.parametrize("key", ["resnet20", "wrn-16-2", "vgg8", "mobilenetv2-half", "shufflenetv2"])
def test_the_signal_neither_dies_nor_explodes_at_initialisation(key: str) -> None:
    torch.manual_seed(0)
    logits = build(key, classes=100)(torch.randn(8, 3, 32, 32))
    assert 1e-3 < logits.std().item() < 30


def test_a_checkpoint_with_repdistillers_names_loads() -> None:
    names = {
        "resnet8x4": {"conv1.weight", "layer2.0.downsample.1.running_var", "layer3.0.bn2.bias", "fc.bias"},
        "wrn-16-2": {
            "block1.layer.0.convShortcut.weight",
            "block3.layer.1.conv2.weight",
            "bn1.bias",
            "fc.bias",
        },
        "vgg13": {"block0.3.weight", "block4.4.running_mean", "classifier.weight"},
        "mobilenetv2-half": {"conv1.0.weight", "blocks.1.0.conv.7.bias", "conv2.1.bias", "classifier.0.bias"},
        "shufflenetv1": {"layer1.0.conv1.weight", "layer3.3.bn3.bias", "linear.weight"},
        "shufflenetv2": {"layer1.0.conv5.weight", "layer2.7.bn3.bias", "conv2.weight", "linear.weight"},
    }
    for key, expected in names.items():
        assert expected <= set(build(key).state_dict())


def test_a_wide_resnet_of_any_valid_depth_and_width_is_built() -> None:
    assert "wrn-22-3" not in OURS
    assert models.find("wrn-22-3").title == "WRN-22-3"
    assert build("wrn-22-3")(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(
    "key", ["wrn-17-2", "wrn-4-1", "wrn-16-0", "wrn-16-2x", "resnet18", "vgg12", "", "timm/", "../x"]
)
def test_an_unknown_architecture_is_refused(key: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(key)
    assert caught.value.field == "architecture"
    assert caught.value.value == key


def test_an_unknown_architecture_is_told_what_it_may_have_meant() -> None:
    with pytest.raises(SpecError, match="resnet8x4"):
        build("resnet8x5")


def test_too_small_images_name_the_size_the_minimum_and_a_way_out() -> None:
    with pytest.raises(SpecError) as caught:
        build("resnet20", size=7)
    assert caught.value.field == "image_size"
    assert caught.value.value == 7
    assert "8×8" in caught.value.problem
    assert caught.value.fix


def test_our_networks_have_no_pretrained_weights() -> None:
    with pytest.raises(SpecError) as caught:
        models.build("resnet20", num_classes=10, in_channels=3, image_size=32, pretrained=True)
    assert caught.value.field == "pretrained"


def test_the_list_holds_ours_and_both_libraries() -> None:
    listed = models.architectures()
    assert list(listed)[: len(OURS)] == OURS
    sources = [a.source for a in listed.values()]
    assert sources.count("torchvision") > 70
    assert sources.count("timm") > 1000
    assert all(key == a.key and a.title and a.family and a.summary for key, a in listed.items())
    assert listed["torchvision/resnet18"].paper == "arXiv 1512.03385"


@pytest.mark.parametrize(
    ("key", "channels", "size"),
    [
        ("torchvision/resnet18", 1, 28),
        ("torchvision/mobilenet_v3_small", 4, 32),
        ("torchvision/squeezenet1_1", 1, 32),
        ("torchvision/shufflenet_v2_x0_5", 2, 32),
        ("timm/resnet10t", 1, 28),
        ("timm/vit_tiny_patch16_224", 1, 32),
        ("timm/test_efficientnet", 4, 32),
        ("timm/resnet18.a1_in1k", 3, 32),
    ],
)
def test_library_networks_fit_any_channels_and_classes(key: str, channels: int, size: int) -> None:
    torch.manual_seed(0)
    model = build(key, classes=7, channels=channels, size=size)
    logits = model(torch.randn(4, channels, size, size))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_with_helper_outputs_returns_one_set_of_logits_while_training(name: str) -> None:
    model = build(f"torchvision/{name}", size=80)
    assert model.training
    assert model(torch.randn(2, 3, 80, 80)).shape == (2, 10)


@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("torchvision/alexnet", 63),
        ("torchvision/convnext_tiny", 32),
        ("torchvision/densenet121", 29),
        ("torchvision/googlenet", 15),
        ("torchvision/inception_v3", 75),
        ("torchvision/maxvit_t", 221),
        ("torchvision/squeezenet1_0", 21),
        ("torchvision/squeezenet1_1", 17),
        ("torchvision/vgg11", 32),
        ("torchvision/vit_b_16", 16),
    ],
)
def test_the_stated_minimum_of_a_torchvision_network_is_the_true_one(
    key: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.distill.models import from_torchvision

    assert models.find(key).min_image_size == least
    with torch.device("meta"):
        build(key, size=least)
        monkeypatch.setattr(from_torchvision, "_minimum", lambda name, family: 1)
        with pytest.raises(SpecError) as caught:
            build(key, size=least - 1)
    assert caught.value.field == "image_size"


@pytest.mark.parametrize("key", ["torchvision/vit_b_16", "timm/vit_tiny_patch16_224"])
def test_pixels_beyond_the_last_whole_patch_are_not_dropped_in_silence(key: str) -> None:
    with pytest.raises(SpecError) as caught, torch.device("meta"):
        build(key, size=40)
    assert caught.value.field == "image_size"


def test_a_pretrained_stem_answers_a_grey_picture_as_before() -> None:
    torch.manual_seed(0)
    grey = torch.randn(2, 1, 9, 9)
    for channels in (1, 2, 5):
        model = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        before = model(grey.expand(-1, 3, -1, -1))
        fit_stem(model, channels, keep=True)
        torch.testing.assert_close(model(grey.expand(-1, channels, -1, -1)), before)


def test_a_new_stem_keeps_the_spread_of_its_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 256, 3, bias=False))
    before = model(torch.randn(8, 3, 16, 16)).std().item()
    fit_stem(model, 12, keep=False)
    assert model(torch.randn(8, 12, 16, 16)).std().item() == pytest.approx(before, rel=0.1)


@pytest.mark.parametrize("key", ["torchvision/resnet18", "torchvision/vit_b_32", "torchvision/googlenet"])
def test_torchvision_weights_that_fit_are_kept(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own loading, with the download replaced by a file of the library's own making."""
    import torchvision

    name = key.removeprefix("torchvision/")
    torch.manual_seed(1)
    options = {"aux_logits": True, "init_weights": True} if name == "googlenet" else {}
    published = torchvision.models.get_model(name, weights=None, **options).state_dict()
    enum = torchvision.models.get_model_weights(name)
    monkeypatch.setattr(enum, "get_state_dict", lambda self, *args, **kwargs: published)
    model = models.build(key, num_classes=5, in_channels=1, image_size=64, pretrained=True)
    own = model.state_dict()
    equal = [
        k for k in own if k in published and own[k].shape == published[k].shape and own[k].equal(published[k])
    ]
    assert len(equal) >= len(own) - 4  # all but stem, classifier and positions
    assert model.eval()(torch.randn(2, 1, 64, 64)).shape == (2, 5)


def test_weights_that_cannot_be_had_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens: no network
    with pytest.raises(SpecError) as caught:
        models.build("torchvision/resnet18", num_classes=10, in_channels=3, image_size=32, pretrained=True)
    assert caught.value.field == "pretrained"
    assert caught.value.fix
