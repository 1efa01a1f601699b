"""CRD: contrastive representation distillation. Tian, Krishnan & Isola 2020, arXiv 1910.10699."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.methods._features import LastPair, last_pair, read, wide
from worker.distill.methods._recipes import repdistiller
from worker.distill.spec import SpecError, Term

EPS = 1e-7


def loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    *,
    student_memory: Tensor,
    teacher_memory: Tensor,
    index: Tensor,
    contrast_index: Tensor,
    z_student: Tensor | float,
    z_teacher: Tensor | float,
    tau: float = 0.07,
) -> Tensor:
    """NCE of the student's embedding against the teacher's memory, plus that of the teacher's against the
    student's: equations 18 and 19 of the paper.

    Each is −1/B Σ_b [ log P₀ / (P₀ + K/N + ε) + Σ_k log (K/N) / (P_k + K/N + ε) ], P = exp(f · m / τ) / Z.
    Embeddings f (B, D) of unit L2 norm, memories (N, D). index (B,): the samples' own rows, for P₀;
    contrast_index (B, 1 + K): the own row, which is not read, then those of K others. Z: the constants that
    `normaliser` gives at the first batch. ValueError for a contrast_index without negatives.
    """
    n = len(student_memory)
    rows = torch.cat([index[:, None], contrast_index[:, 1:]], dim=1)
    by_student = scores(student_embedding, teacher_memory, rows, tau)
    by_teacher = scores(teacher_embedding, student_memory, rows, tau)
    return _nce(by_student, z_student, n) + _nce(by_teacher, z_teacher, n)


def scores(embedding: Tensor, memory: Tensor, rows: Tensor, tau: float) -> Tensor:
    """f · m / τ: (B, D), (N, D), rows (B, R) → (B, R)."""
    # All N products, then the ones wanted: R copied rows a sample would take D times the memory.
    return (wide(embedding) @ wide(memory).T / tau).gather(1, rows)


def normaliser(scores: Tensor, n: int) -> Tensor:
    """Z = N · mean exp(scores): Monte Carlo over one batch, as a constant."""
    return n * scores.detach().exp().mean()


def _nce(scores: Tensor, z: Tensor | float, n: int) -> Tensor:
    """(B, 1 + K), the positives first → ()"""
    noise = (scores.shape[1] - 1) / n  # K · P_noise
    if not noise:
        raise ValueError("contrast_index holds no negatives: give it at least two columns")
    log_p = scores - torch.as_tensor(z, dtype=scores.dtype, device=scores.device).log()
    log_sum = torch.logaddexp(log_p, torch.full_like(log_p, math.log(noise + EPS)))
    positive = log_p[:, 0] - log_sum[:, 0]
    negative = math.log(noise) - log_sum[:, 1:]
    return -(positive.sum() + negative.sum()) / len(scores)


def remember(memory: Tensor, index: Tensor, embedding: Tensor, momentum: float) -> Tensor:
    """The memory (N, D) with the rows index (B,) moved towards the embedding (B, D), of unit norm again."""
    moved = momentum * memory[index] + (1 - momentum) * embedding.detach().to(memory.dtype)
    # Not in place: the scores' backward pass still needs the old one.
    return memory.index_copy(0, index, F.normalize(moved, dim=1))


def draw(kinds: Tensor, index: Tensor, k: int, most: int, generator: torch.Generator) -> Tensor:
    """K other rows for each sample, none twice and none of its own kind: (B, k).

    kinds (N,): the class of every row; most: the size of the largest; k is at most N − most. One random
    order serves the batch: each sample takes, from a place of its own, the first k that are not its kind.
    """
    n, device = len(kinds), index.device
    order = torch.randperm(n, generator=generator).to(device)
    start = torch.randint(n, (len(index), 1), generator=generator).to(device)
    window = order[(start + torch.arange(k + most, device=device)) % n]  # (B, k + most): k others at least
    other = kinds[window] != kinds[index][:, None]
    place = other.cumsum(1) - 1
    place = torch.where(other & (place < k), place, k)  # the rest goes to a last column, which is dropped
    return torch.zeros(len(index), k + 1, dtype=window.dtype, device=device).scatter(1, place, window)[:, :k]


class Method(methods.Method):
    title = "Contrastive representation distillation"
    paper = "Tian, Krishnan, Isola: Contrastive Representation Distillation (ICLR 2020)"
    paper_url = "https://arxiv.org/abs/1910.10699"
    formula = (
        "−mean_b [ log P(own) / (P(own) + K/N) + Σ_K log (K/N) / (P(other) + K/N) ], both ways; "
        "P = exp(f · m / τ) / Z, m from a memory of the other network's embeddings"
    )
    summary = (
        "The student's embedding of an image shall pick the teacher's of the same image out of thousands of "
        "other classes, and the other way round. Among the most accurate methods, best together with kd. "
        "Keeps 2 × N × D numbers for N training images. Multi-label: every other image is a negative."
    )
    needs = ("features", "labels", "index")
    task_forms = ("single-label", "multi-label")
    presets = (
        *repdistiller(Term(method="crd", weight=0.8), flags="-r 1 -a 0 -b 0.8"),
        *repdistiller(
            Term(method="crd", weight=0.8),
            Term(method="kd", weight=1, params={"temperature": 4.0}),
            flags="-r 1 -a 1 -b 0.8",
        ),
    )

    class Params(LastPair):
        feat_dim: int = Field(
            128, ge=1, le=4096, title="Width of the embedding", description="D, of both learned maps."
        )
        negatives: int = Field(
            16_384,
            ge=1,
            le=1_000_000,
            title="Negatives",
            description="K, for each sample; no more than every image of the other classes.",
        )
        tau: float = Field(
            0.07,
            ge=0.03,
            le=10,
            title="Temperature τ",
            description="Lower: the hardest negatives count more.",
        )
        momentum: float = Field(
            0.5, ge=0, lt=1, title="Momentum of the memory", description="Share of the old in each update."
        )

    params: Params
    student_memory: Tensor
    teacher_memory: Tensor
    z: Tensor
    kinds: Tensor

    def setup(self, pair: methods.Pair) -> None:
        student, teacher = last_pair(pair, self.params)
        self._count(pair)
        n, width = len(self.kinds), self.params.feat_dim
        self.student_embedding = nn.Linear(read(pair, student, "student_layer").channels, width)
        self.teacher_embedding = nn.Linear(read(pair, teacher, "teacher_layer").channels, width)
        bound = math.sqrt(3 / width)  # uniform, of norm 1 on average
        self.register_buffer("student_memory", torch.empty(n, width).uniform_(-bound, bound))
        self.register_buffer("teacher_memory", torch.empty(n, width).uniform_(-bound, bound))
        self.register_buffer("z", torch.full((2,), -1.0))  # of student and teacher; negative: not set yet
        self.seed = pair.seed
        self.student_vectors, self.teacher_vectors = (student.path,), (teacher.path,)

    def _count(self, pair: methods.Pair) -> None:
        """The kinds of the rows, and how many negatives there are for every one."""
        asked = self.params.negatives
        if pair.labels is None:
            fix = "Choose a method without negatives."
            raise SpecError("negatives", asked, "the labels of the training images are not known.", fix)
        single = pair.labels.ndim == 1
        kinds = pair.labels.long() if single else torch.arange(len(pair.labels))
        self.register_buffer("kinds", kinds, persistent=False)
        self.most = int(kinds.bincount().max())
        self.count = min(asked, len(kinds) - self.most)
        if not self.count:
            fix = "Use a dataset of two classes at least."
            raise SpecError("negatives", asked, "all training images are of one class.", fix)

    def forward(self, step: methods.Step) -> Tensor:
        student = self._embed(self.student_embedding, step.student_vectors[self.student_vectors[0]])
        teacher = self._embed(self.teacher_embedding, step.teacher_vectors[self.teacher_vectors[0]])
        others = draw(self.kinds, step.index, self.count, self.most, self._generator(step.number))
        rows = torch.cat([step.index[:, None], others], dim=1)  # (B, 1 + K)
        n, tau = len(self.kinds), self.params.tau
        by_student = scores(student, self.teacher_memory, rows, tau)
        by_teacher = scores(teacher, self.student_memory, rows, tau)
        # Without asking whether z is set: a device would have to be waited for.
        found = torch.stack([normaliser(by_student, n), normaliser(by_teacher, n)]).to(self.z.dtype)
        self.z = torch.where(self.z < 0, found, self.z)
        self.student_memory = remember(self.student_memory, step.index, student, self.params.momentum)
        self.teacher_memory = remember(self.teacher_memory, step.index, teacher, self.params.momentum)
        return _nce(by_student, self.z[0], n) + _nce(by_teacher, self.z[1], n)

    @staticmethod
    def _embed(linear: nn.Module, vector: Tensor) -> Tensor:
        return F.normalize(linear(vector), dim=1)

    def _generator(self, number: int) -> torch.Generator:
        """On the CPU, so that it draws the same on every device."""
        key = int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator().manual_seed(key)
