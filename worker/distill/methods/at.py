"""AT: attention transfer. Zagoruyko & Komodakis 2017, arXiv 1612.03928."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import meet, to_map
from worker.distill.methods._features import SeveralPairs, read_pairs, several_pairs, wide
from worker.distill.methods._recipes import repdistiller, repdistiller_vgg
from worker.distill.spec import Term

FLAGS = "-r 1 -a 0 -b 1000"


def loss(student_feature: Tensor, teacher_feature: Tensor, *, p: int = 2) -> Tensor:
    """mean over samples and positions of (a_s − a_t)², a = vec(mean_c F^p) of unit L2 norm.

    Section 3.1 of the paper, of one pair of layers; as a mean, the authors' code, where equation 2 has a
    norm. student_feature (B, C_s, H, W), teacher_feature (B, C_t, H', W'); the larger map is
    average-pooled. For an odd p pass magnitudes: the powers are signed.
    """
    student, teacher = meet(wide(student_feature), wide(teacher_feature))
    return F.mse_loss(_attention(student, p), _attention(teacher, p))


def _attention(feature: Tensor, p: int) -> Tensor:
    """(B, C, H, W) → (B, H·W)"""
    return F.normalize(feature.pow(p).mean(1).flatten(1), dim=1)


class Method(methods.Method):
    title = "Attention transfer"
    paper = "Zagoruyko, Komodakis: Paying More Attention to Attention (ICLR 2017)"
    paper_url = "https://arxiv.org/abs/1612.03928"
    formula = "Σ_layers mean( (a_s − a_t)² ), a = vec(mean_c |F|^p) / its L2 norm"
    summary = (
        "The student looks where the teacher looks: maps of how much happens at each position are compared, "
        "stage by stage. Any numbers of channels; good between networks of one family, less so across."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = (
        *repdistiller(Term(method="at", weight=1000), flags=FLAGS),
        repdistiller_vgg("at", 1000, FLAGS),
    )

    class Params(SeveralPairs):
        p: int = Field(
            2, ge=1, le=4, title="Power", description="The higher, the more the strongest channels count."
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        pairs = several_pairs(pair, self.params)
        self.layouts = read_pairs(pair, pairs)
        self.student_paths = tuple(student.path for student, _ in pairs)
        self.teacher_paths = tuple(teacher.path for _, teacher in pairs)

    def forward(self, step: methods.Step) -> Tensor:
        total = step.student_logits.new_zeros(())
        for (ours, theirs), a, b in zip(self.layouts, self.student_paths, self.teacher_paths, strict=True):
            student = to_map(ours, step.student_features[a]).abs()
            teacher = to_map(theirs, step.teacher_features[b]).abs()
            total = total + loss(student, teacher, p=self.params.p)
        return total
