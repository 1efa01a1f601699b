"""Knowledge distillation. Hinton, Vinyals & Dean 2015, arXiv 1503.02531."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from worker.distill import methods
from worker.distill.methods._features import wide
from worker.distill.spec import Strict


def loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T² · mean over the batch of KL(softmax(z_t/T) ‖ softmax(z_s/T)): section 2 of the paper.

    student_logits z_s, teacher_logits z_t: (B, C). T² keeps the gradient's size independent of T.
    Computed in fp32 at least. A logit of −inf takes its class out of that distribution; classes the
    student cannot give any mass are left out of the teacher's as well, or the divergence were infinite.
    """
    z_s, z_t = wide(student_logits), wide(teacher_logits)
    z_t = z_t.masked_fill(z_s == -torch.inf, -torch.inf)
    log_s = torch.log_softmax(z_s / temperature, dim=1)
    log_t = torch.log_softmax(z_t / temperature, dim=1)
    # 0 · log 0 = 0, in the gradient too: the infinite difference is replaced before it is multiplied
    log_ratio = (log_t - log_s).masked_fill(log_t == -torch.inf, 0)
    return (log_t.exp() * log_ratio).sum(1).mean() * temperature**2


class Method(methods.Method):
    title = "Knowledge distillation"
    paper = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015)"
    paper_url = "https://arxiv.org/abs/1503.02531"
    formula = "T² · mean_b KL( softmax(z_t / T) ‖ softmax(z_s / T) )"
    summary = (
        "The student imitates the teacher's softened class probabilities. The first method to try: "
        "no layers to choose, almost no cost, works between any two architectures."
    )

    class Params(Strict):
        temperature: float = Field(
            4.0,
            ge=0.05,
            le=100,
            title="Temperature",
            description="Softens both distributions. 4 suits small images with many epochs, "
            "1 to 2 a weak teacher or very many classes.",
        )

    params: Params

    def forward(self, step: methods.Step) -> Tensor:
        return loss(step.student_logits, step.teacher_logits, temperature=self.params.temperature)
