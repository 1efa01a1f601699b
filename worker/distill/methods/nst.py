"""NST: neuron selectivity transfer. Huang & Wang 2017, arXiv 1707.01219."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import meet, to_map
from worker.distill.methods._features import SeveralPairs, read_pairs, several_pairs, wide
from worker.distill.methods._recipes import repdistiller, repdistiller_vgg
from worker.distill.spec import Term

FLAGS = "-r 1 -a 0 -b 50"


def loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """mean k(t, t') + mean k(s, s') − 2 mean k(s, t), k(a, b) = (a · b)²: section 4 of the paper, one pair.

    The squared maximum mean discrepancy between the two sets of channels, each channel's map s = vec(F_c)
    of unit L2 norm; the polynomial kernel of degree 2 without offset, means over the batch
    and all pairs of channels. student_feature (B, C_s, H, W), teacher_feature (B, C_t, H', W'); the larger
    map is average-pooled.
    """
    student, teacher = meet(wide(student_feature), wide(teacher_feature))
    s, t = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)
    return _kernel(t, t) + _kernel(s, s) - 2 * _kernel(s, t)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean of (a_c · b_d)² over samples and channels: (B, C, P), (B, D, P) → ()."""
    if a.shape[2] < min(a.shape[1], b.shape[1]):
        # Σ_cd (a_c · b_d)² = ⟨AᵀA, BᵀB⟩, which is cheaper where there are fewer positions than channels
        total = ((a.transpose(1, 2) @ a) * (b.transpose(1, 2) @ b)).sum()
        return total / (len(a) * a.shape[1] * b.shape[1])
    return (a @ b.transpose(1, 2)).square().mean()


class Method(methods.Method):
    title = "Neuron selectivity transfer"
    paper = "Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer (2017)"
    paper_url = "https://arxiv.org/abs/1707.01219"
    formula = "Σ_layers mean k(t, t') + mean k(s, s') − 2 mean k(s, t), k(a, b) = (a · b)² of channels' maps"
    summary = (
        "The channels of the student respond to the same regions as the teacher's, as distributions: which "
        "channel does so is free. Any numbers of channels; maps of one pixel say nothing."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = (*repdistiller(Term(method="nst", weight=50), flags=FLAGS), repdistiller_vgg("nst", 50, FLAGS))

    class Params(SeveralPairs):
        """The layers; empty: a pair for each stage."""

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        pairs = several_pairs(pair, self.params)
        self.layouts = read_pairs(pair, pairs)
        self.student_paths = tuple(student.path for student, _ in pairs)
        self.teacher_paths = tuple(teacher.path for _, teacher in pairs)

    def forward(self, step: methods.Step) -> Tensor:
        total = step.student_logits.new_zeros(())
        for (ours, theirs), a, b in zip(self.layouts, self.student_paths, self.teacher_paths, strict=True):
            student, teacher = step.student_features[a], step.teacher_features[b]
            total = total + loss(to_map(ours, student), to_map(theirs, teacher))
        return total
