"""SimKD: reusing the teacher's classifier. Chen et al. 2022, arXiv 2203.14001."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import meet, to_map, to_vector
from worker.distill.layers import INPUT, Tap
from worker.distill.methods._features import LastPair, last_pair, read, wide
from worker.distill.methods._graft import Grafted
from worker.distill.methods._norm import BatchNorm
from worker.distill.methods._recipes import CIFAR_100, CIFAR_100_LIGHT, recipe
from worker.distill.pairing import Layer
from worker.distill.spec import Preset, SpecError, Term


def loss(student_feature: Tensor, teacher_feature: Tensor, *, transfer: Callable[[Tensor], Tensor]) -> Tensor:
    """mean over all elements of (transfer(F_s) − F_t)²: equation 3 of the paper.

    student_feature (B, C_s, H, W), teacher_feature (B, C_t, H, W) before global pooling, the larger
    average-pooled; transfer takes C_s channels to C_t.
    """
    student, teacher = meet(wide(student_feature), wide(teacher_feature))
    return F.mse_loss(transfer(student), teacher)


def projector(c_in: int, c_out: int, factor: int) -> nn.Sequential:
    """1×1, 3×3, 1×1 convolutions with batch norm and ReLU, C_t / factor channels inside: figure 3."""
    middle = max(1, c_out // factor)
    return nn.Sequential(
        nn.Conv2d(c_in, middle, 1, bias=False),
        BatchNorm(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        BatchNorm(middle),
        nn.ReLU(),
        nn.Conv2d(middle, c_out, 1, bias=False),
        BatchNorm(c_out),
        nn.ReLU(),
    )


def pooled_layer(pair: methods.Pair, classifier: nn.Linear) -> Layer:
    """The teacher's largest map whose mean over positions its classifier sees. SpecError if there is none.

    Found by trying: networks pool in ways that no module tells of.
    """
    head = next(path for path, module in pair.teacher.named_modules() if module is classifier)
    maps = [layer for layer in pair.teacher_layers if _channels(layer, pair) == classifier.in_features]
    device = next(pair.teacher.parameters()).device
    x = torch.randn(2, *pair.image, generator=torch.Generator().manual_seed(0)).to(device)
    with Tap(pair.teacher, [head, head + INPUT, *(layer.path for layer in maps)]) as tap, torch.no_grad():
        logits, outputs = pair.teacher(x), tap.outputs
    found = [
        layer
        for layer in maps
        if _alike(to_vector(read(pair, layer, "teacher_layer"), outputs[layer.path]), outputs[head + INPUT])
    ]
    if found and _alike(outputs[head], logits):
        # Behind the pooling lies a map of one pixel with the same mean, but the positions are gone there.
        return max(reversed(found), key=lambda layer: math.prod(layer.shape))
    problem = (
        "the teacher's classifier does not see the mean of a feature map, which the student could imitate."
    )
    fix = "Choose a teacher that classifies right behind global pooling, e.g. a ResNet, or another method."
    raise SpecError("teacher_layer", "", problem, fix)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def _channels(layer: Layer, pair: methods.Pair) -> int:
    try:
        how = read(pair, layer, "teacher_layer")
    except SpecError:
        return 0
    return 0 if how.kind == "vector" else how.channels


def classifier_of(pair: methods.Pair) -> nn.Linear:
    linear = [module for module in pair.teacher.modules() if isinstance(module, nn.Linear)]
    if linear and linear[-1].out_features == pair.num_classes:
        return linear[-1]
    problem = "the teacher has no linear classifier for the dataset's classes, which the student could use."
    raise SpecError("teacher_layer", "", problem, "Choose another teacher, or another method.")


def _preset(title: str, training: dict[str, Any], *pair: str) -> Preset:
    source = "SimKD, scripts/run_cifar_distill.sh: only the feature loss, factor 2"
    return recipe(title, source, Term(method="simkd"), training, *pair, task_weight=0.0)


class Method(methods.Method):
    title = "SimKD: the teacher's classifier reused"
    paper = "Chen et al.: Knowledge Distillation with the Reused Teacher Classifier (CVPR 2022)"
    paper_url = "https://arxiv.org/abs/2203.14001"
    formula = "mean( (P(F_s) − F_t)² ); the student answers with the teacher's classifier on P(F_s)"
    summary = (
        "The student learns to imitate the teacher's last features and answers with the teacher's "
        "classifier; the projector P between them becomes part of the student, is exported with it and "
        "counts in its size. Often the most accurate method; the labels are not needed (task weight 0)."
    )
    needs = ("features", "logits")  # the classifier answers in the teacher's classes
    task_forms = ("single-label", "multi-label")
    presets = (
        _preset("CIFAR-100", CIFAR_100),
        _preset("CIFAR-100, ResNet-32×4 → ResNet-8×4", CIFAR_100, "resnet32x4", "resnet8x4"),
        _preset("CIFAR-100, ResNet-32×4 → VGG-8", CIFAR_100, "resnet32x4", "vgg8"),
        _preset("CIFAR-100, ResNet-32×4 → ShuffleNetV2", CIFAR_100_LIGHT, "resnet32x4", "shufflenetv2"),
    )

    class Params(LastPair):
        model_config = ConfigDict(json_schema_extra={"proposed": "engine"})  # its own rule, see pooled_layer

        factor: int = Field(
            2, ge=1, le=64, title="Reduction", description="The projector has C_t / factor channels inside."
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        student, _ = last_pair(pair, self.params)
        classifier = classifier_of(pair)
        if self.params.teacher_layer:
            teacher = pair.layer("teacher", self.params.teacher_layer)
        else:
            teacher = pooled_layer(pair, classifier)
        ours, theirs = read(pair, student, "student_layer"), read(pair, teacher, "teacher_layer")
        if theirs.channels != classifier.in_features:
            problem = f"it has {theirs.channels} channels, the classifier takes {classifier.in_features}."
            fix = "Leave it empty: the layer before pooling is found."
            raise SpecError("teacher_layer", teacher.path, problem, fix)
        size = min(ours.height, theirs.height), min(ours.width, theirs.width)
        transfer = projector(ours.channels, theirs.channels, self.params.factor)
        frozen = copy.deepcopy(classifier).requires_grad_(False)
        # In a tuple: these belong to the grafted student, not to the method.
        self.graft_parts = (student, ours, size, transfer, frozen, pair.image)
        self.how = theirs
        self.student_paths, self.teacher_paths = ("transfer",), (teacher.path,)

    def graft(self, student: nn.Module) -> nn.Module:
        return Grafted(student, *self.graft_parts)

    def forward(self, step: methods.Step) -> Tensor:
        teacher = to_map(self.how, step.teacher_features[self.teacher_paths[0]])
        return loss(step.student_features["transfer"], teacher, transfer=nn.Identity())
