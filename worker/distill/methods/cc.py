"""CC: correlation congruence. Peng et al. 2019, arXiv 1904.01802, in the form of Tian et al. 2020."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from worker.distill import methods
from worker.distill.methods._features import LastPair, last_pair, read, wide
from worker.distill.methods._recipes import repdistiller
from worker.distill.spec import Term


def loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """mean_i Σ_d D_id · D_(i+1)d over consecutive samples, D = |e_s − e_t|.

    student_embedding e_s and teacher_embedding e_t: (B, D), each through a linear map of its own. This is
    the form of Tian et al. (arXiv 1910.10699), which the published tables use; the paper's equation 4
    compares B × B correlation matrices instead. A batch of one has no pair: zero, with a graph.
    ValueError for unequal shapes.
    """
    if student_embedding.shape != teacher_embedding.shape:
        shapes = f"{tuple(student_embedding.shape)}, {tuple(teacher_embedding.shape)}"
        raise ValueError(f"shapes differ: {shapes}")
    delta = (wide(student_embedding) - wide(teacher_embedding)).abs()  # (B, D)
    return (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)


class Method(methods.Method):
    title = "Correlation congruence"
    paper = "Peng et al.: Correlation Congruence for Knowledge Distillation (ICCV 2019)"
    paper_url = "https://arxiv.org/abs/1904.01802"
    formula = "mean_i Σ_d D_id · D_(i+1)d, D = |W_s f_s − W_t f_t|, W_s and W_t learned"
    summary = (
        "Differences between the two networks' embeddings shall not go together in neighbouring samples of "
        "a batch. Both embeddings are learned, so widths need not match; a batch of one says nothing."
    )
    needs = ("features",)
    task_forms = ("single-label", "multi-label")
    presets = repdistiller(Term(method="cc", weight=0.02), flags="-r 1 -a 0 -b 0.02")

    class Params(LastPair):
        feat_dim: int = Field(
            128, ge=1, le=4096, title="Width of the embedding", description="Of both learned maps."
        )

    params: Params

    def setup(self, pair: methods.Pair) -> None:
        student, teacher = last_pair(pair, self.params)
        width = self.params.feat_dim
        self.student_embedding = nn.Linear(read(pair, student, "student_layer").channels, width)
        self.teacher_embedding = nn.Linear(read(pair, teacher, "teacher_layer").channels, width)
        self.student_vectors, self.teacher_vectors = (student.path,), (teacher.path,)

    def forward(self, step: methods.Step) -> Tensor:
        student = step.student_vectors[self.student_vectors[0]]
        teacher = step.teacher_vectors[self.teacher_vectors[0]]
        return loss(self.student_embedding(student), self.teacher_embedding(teacher))
