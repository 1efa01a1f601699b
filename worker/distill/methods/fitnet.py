"""FitNets: hints from a hidden layer. Romero et al. 2015, arXiv 1412.6550."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import Bridge
from worker.distill.methods._features import OnePair, one_pair, wide
from worker.distill.methods._recipes import repdistiller
from worker.distill.spec import SpecError, Term


def loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """mean over all elements of (r(F_s) − F_t)²: equation 3 of the paper, as a mean.

    student_feature r(F_s), after the regressor, and teacher_feature F_t: of equal shape (B, …).
    """
    if student_feature.shape != teacher_feature.shape:
        raise ValueError(f"shapes differ: {tuple(student_feature.shape)}, {tuple(teacher_feature.shape)}")
    return F.mse_loss(wide(student_feature), wide(teacher_feature))


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
    presets = repdistiller(Term(method="fitnet", weight=100), flags="-r 1 -a 0 -b 100")

    class Params(OnePair):
        """The hint and the guided layer."""

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        student, teacher = one_pair(pair, self.params)
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
