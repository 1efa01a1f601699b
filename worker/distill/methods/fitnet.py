"""FitNets: hints from a hidden layer. Romero et al. 2015, arXiv 1412.6550."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import Bridge
from worker.distill.layers import propose_pair
from worker.distill.spec import SpecError, Strict


def loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """mean over all elements of (r(F_s) − F_t)²: equation 3 of the paper, as a mean.

    student_feature r(F_s), after the regressor, and teacher_feature F_t: of equal shape (B, …).
    """
    if student_feature.shape != teacher_feature.shape:
        raise ValueError(f"shapes differ: {tuple(student_feature.shape)}, {tuple(teacher_feature.shape)}")
    return F.mse_loss(_wide(student_feature), _wide(teacher_feature))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class Method(methods.Method):
    title = "FitNet hints"
    paper = "Romero et al.: FitNets: Hints for Thin Deep Nets (ICLR 2015)"
    paper_url = "https://arxiv.org/abs/1412.6550"
    formula = "mean( (W · F_s − F_t)² ), W a learned linear map (1×1 convolution)"
    summary = (
        "A hidden layer of the student, through a learned linear map, imitates a hidden layer of the "
        "teacher. Good together with kd, for deep or thin students; shapes need not match."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")

    class Params(Strict):
        student_layer: str = Field(
            "",
            max_length=300,
            title="Student layer",
            description="Module path, e.g. layer3. Empty: the layer that matches the teacher's by stage.",
            json_schema_extra={"layer_of": "student"},
        )
        teacher_layer: str = Field(
            "",
            max_length=300,
            title="Teacher layer",
            description="Module path of the hint. Empty: chosen by stage and resolution.",
            json_schema_extra={"layer_of": "teacher"},
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        chosen = self.params
        ours = [pair.layer("student", chosen.student_layer)] if chosen.student_layer else pair.student_layers
        hints = [pair.layer("teacher", chosen.teacher_layer)] if chosen.teacher_layer else pair.teacher_layers
        if len(ours) == len(hints) == 1:
            student, teacher = ours[0], hints[0]
        else:
            student, teacher = propose_pair(ours, hints)
        try:
            self.bridge = Bridge(student.shape, teacher.shape, image=pair.image[1:])
        except ValueError as error:
            fix = "Choose layers whose outputs are maps, tokens or vectors."
            raise SpecError("student_layer", student.path, f"{error}.", fix) from error
        self.student_paths, self.teacher_paths = (student.path,), (teacher.path,)

    def forward(self, step: methods.Step) -> Tensor:
        student = step.student_features[self.student_paths[0]]
        teacher = step.teacher_features[self.teacher_paths[0]]
        return loss(*self.bridge(student, teacher))
