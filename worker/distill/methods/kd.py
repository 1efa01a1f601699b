"""Knowledge distillation. Hinton, Vinyals & Dean 2015, arXiv 1503.02531."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.methods._logits import divergence, tame
from worker.distill.methods._recipes import CIFAR_100, CIFAR_100_LIGHT, IMAGENET, recipe
from worker.distill.spec import Preset, Strict, Term


def loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float | Tensor = 4.0) -> Tensor:
    """T² · mean over the batch of KL(softmax(z_t/T) ‖ softmax(z_s/T)): section 2 of the paper.

    student_logits z_s, teacher_logits z_t: (B, C). T² keeps the gradient's size independent of T.
    Computed in fp32 at least. A logit of −inf takes its class out of that distribution; classes the
    student cannot give any mass are left out of the teacher's as well, or the divergence were infinite.
    """
    z_s, z_t = tame(student_logits, teacher_logits)
    return divergence(z_s / temperature, z_t / temperature).mean() * temperature**2


def sigmoid_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T² · mean over the batch of Σ_labels KL(B(σ(z_t/T)) ‖ B(σ(z_s/T))): the form for labels that exclude
    nothing, each a Bernoulli distribution B of its own. Logits (B, C).

    A label whose student logit is −inf costs nothing, or its divergence were infinite; one of the teacher's
    is a certain no.
    """
    z_s, z_t = (z / temperature for z in tame(student_logits, teacher_logits))
    p = z_t.sigmoid()
    yes = p * (F.logsigmoid(z_t) - F.logsigmoid(z_s))
    no = (1 - p) * (F.logsigmoid(-z_t) - F.logsigmoid(-z_s))
    return (yes + no).sum(1).mean() * temperature**2


def preset(title: str, source: str, alpha: float, temperature: float, training: dict[str, Any]) -> Preset:
    """(1 − α)·CE + α·KD"""
    term = Term(method="kd", weight=alpha, params={"temperature": temperature})
    return recipe(title, source, term, training, task_weight=round(1 - alpha, 6))


_SOURCE = "RepDistiller and mdistiller, CIFAR-100 scripts: -r 0.1 -a 0.9, T = 4"


class Method(methods.Method):
    title = "Knowledge distillation"
    paper = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015)"
    paper_url = "https://arxiv.org/abs/1503.02531"
    formula = (
        "T² · mean_b KL( softmax(z_t / T) ‖ softmax(z_s / T) ); "
        "multi-label: T² · mean_b Σ_c KL( B(σ(z_t / T)) ‖ B(σ(z_s / T)) )"
    )
    summary = (
        "The student imitates the teacher's softened class probabilities. The first method to try: "
        "no layers to choose, almost no cost, works between any two architectures."
    )
    task_forms = ("single-label", "multi-label")
    presets = (
        preset("CIFAR-100", _SOURCE, 0.9, 4.0, CIFAR_100),
        preset("CIFAR-100, MobileNetV2 or ShuffleNet student", _SOURCE, 0.9, 4.0, CIFAR_100_LIGHT),
        preset("ImageNet", "mdistiller, ImageNet configs: 0.5 / 0.5, T = 1", 0.5, 1.0, IMAGENET),
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
        final_temperature: float | None = Field(
            None,
            ge=0.05,
            le=100,
            title="Final temperature",
            description="Reached by the run's end, in a straight line. Empty: the temperature stays.",
        )

    params: Params

    def forward(self, step: methods.Step) -> Tensor:
        form = sigmoid_loss if step.task == "multi-label" else loss
        return form(step.student_logits, step.teacher_logits, temperature=self.temperature(step))

    def temperature(self, step: methods.Step) -> float:
        first, last = self.params.temperature, self.params.final_temperature
        return first if last is None else first + (last - first) * min(step.epoch / step.epochs, 1.0)

    def dials(self, step: methods.Step) -> dict[str, Tensor | float]:
        return {"temperature": self.temperature(step)}
