"""OFD: a comprehensive overhaul of feature distillation. Heo et al. 2019, arXiv 1904.01866."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from worker.distill import methods
from worker.distill.methods._features import Connector, SeveralPairs, before_activations, wide
from worker.distill.methods._recipes import (
    CIFAR_100,
    CIFAR_100_LIGHT,
    IMAGENET,
    presets_before_activations,
    recipe,
)
from worker.distill.pairing import Layer
from worker.distill.spec import Preset, Term


def loss(student_feature: Tensor, teacher_feature: Tensor, *, margin: Tensor) -> Tensor:
    """mean_b Σ_(C,H,W) (max(t, m) − s)² · 1(s > max(t, m) or t > 0): equations 4 to 6 of the paper.

    student_feature s, after its connector, and teacher_feature t: (B, C, H, W) before the activation, of
    equal shape; margin m: (C,) or what broadcasts to (1, C, 1, 1), negative: what a feature that the
    activation cuts off is worth on average. ValueError for unequal shapes.
    """
    if student_feature.shape != teacher_feature.shape:
        raise ValueError(f"shapes differ: {tuple(student_feature.shape)}, {tuple(teacher_feature.shape)}")
    s, t = wide(student_feature), wide(teacher_feature)
    m = margin.to(t).reshape(1, -1, *[1] * (t.ndim - 2))
    wanted = torch.maximum(t, m)  # margin ReLU
    # A response that the teacher cuts off is right wherever the student's lies below it.
    counts = (s > wanted) | (wanted > 0)
    return torch.where(counts, wanted - s, 0.0).square().sum() / len(s)


def margins(norm: nn.Module, channels: int) -> Tensor:
    """E[x | x < 0] of x ~ N(β, γ²), a channel's responses behind batch norm: (C,), equation 5.

    A channel that is practically never negative gets −3 |γ|; a network without batch norm, 0.
    """
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine:
        return torch.zeros(channels)
    found = []
    for s, mean in zip(norm.weight.abs().tolist(), norm.bias.tolist(), strict=True):
        below = 0.5 * math.erfc(mean / s / math.sqrt(2)) if s else 0.0  # P(x < 0)
        if below > 0.001:
            found.append(mean - s * math.exp(-((mean / s) ** 2) / 2) / math.sqrt(2 * math.pi) / below)
        else:
            found.append(-3 * s)
    return torch.tensor(found)


def last_norm(pair: methods.Pair, layer: Layer, channels: int) -> nn.Module:
    """The batch norm of the teacher whose responses the layer's activation sees.

    Of several that run before it in its block, the last of the main branch; a layer that is itself a batch
    norm; nothing (an Identity) where the layer ends without an activation, or none is found.
    """
    modules: dict[str, nn.Module] = dict(pair.teacher.named_modules())
    stage = layer.activation.rpartition(".")[0] if layer.activation else layer.path
    if isinstance(modules.get(stage), nn.BatchNorm2d):
        return modules[stage]
    if not layer.activation:
        return nn.Identity()
    paths = [other.path for other in pair.teacher_layers]
    inside = [
        path
        for path in paths[: paths.index(layer.activation)]
        if path.startswith(f"{stage}." if stage else "")
        and isinstance(modules[path], nn.BatchNorm2d)
        and modules[path].num_features == channels
    ]
    if not inside:
        return nn.Identity()
    main = min(path.count(".") for path in inside)  # a shortcut's lies deeper than the block's own
    return [modules[path] for path in inside if path.count(".") == main][-1]


def _preset(title: str, weight: float, source: str, training: dict[str, Any], *pair: str) -> Preset:
    return recipe(title, source, Term(method="ofd", weight=weight), training, *pair)


_CIFAR = "mdistiller, configs/cifar100/ofd: CE 1, feature 0.001"
_IMAGENET = "the authors' ImageNet training and mdistiller: CE 1, feature 0.0001"


class Method(methods.Method):
    title = "Overhaul of feature distillation"
    paper = "Heo et al.: A Comprehensive Overhaul of Feature Distillation (ICCV 2019)"
    paper_url = "https://arxiv.org/abs/1904.01866"
    formula = "Σ_layers 2^(i−n+1) · mean_b Σ (max(t, m) − s)² where s > max(t, m) or t > 0"
    summary = (
        "Features before the activation, through a learned map, imitate the teacher's where they are "
        "positive; where the teacher's are negative, being low is enough. Strong for convolutional networks "
        "of similar build. The margin is that of the batch norm before the teacher's activation, or 0."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = (
        _preset("CIFAR-100", 1e-3, _CIFAR, CIFAR_100),
        _preset("CIFAR-100, MobileNetV2 or ShuffleNet student", 1e-3, _CIFAR, CIFAR_100_LIGHT),
        *presets_before_activations(Term(method="ofd", weight=1e-3), f"{_CIFAR}, and its models"),
        _preset(
            "ImageNet, ResNet-34 → ResNet-18",
            1e-4,
            _IMAGENET,
            IMAGENET,
            "torchvision/resnet34",
            "torchvision/resnet18",
        ),
    )

    class Params(SeveralPairs):
        """The layers; each is looked at before its activation."""

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        pairs = before_activations(pair, self.params)
        connectors = [Connector(pair, *layers) for layers in pairs]
        for i, ((_, teacher), connector) in enumerate(zip(pairs, connectors, strict=True)):
            norm = last_norm(pair, teacher, connector.channels)
            self.register_buffer(f"margin{i}", margins(norm, connector.channels))
        self.connectors = nn.ModuleList(connectors)
        self.student_paths = tuple(student.path for student, _ in pairs)
        self.teacher_paths = tuple(teacher.path for _, teacher in pairs)

    def forward(self, step: methods.Step) -> Tensor:
        last = len(self.student_paths) - 1
        total = step.student_features[self.student_paths[0]].new_zeros(())
        for i, (ours, theirs) in enumerate(zip(self.student_paths, self.teacher_paths, strict=True)):
            s, t = self.connectors[i](step.student_features[ours], step.teacher_features[theirs])
            total = total + 2.0 ** (i - last) * loss(s, t, margin=self.get_buffer(f"margin{i}"))
        return total
