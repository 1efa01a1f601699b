"""What logit methods share: distributions that stay finite whatever the logits are."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.distill.methods._features import wide

# Stands for −inf: its probability is exactly 0, and 0 · (FLOOR − FLOOR) is 0 where 0 · (∞ − ∞) is NaN.
FLOOR = -1e9


def tame(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, C) in fp32 at least, without −inf. A class the student cannot give any mass is left out of the
    teacher's distribution too, or their divergence were infinite."""
    z_s, z_t = wide(student_logits), wide(teacher_logits)
    z_t = z_t.masked_fill(z_s == -torch.inf, FLOOR)
    return z_s.clamp_min(FLOOR), z_t.clamp_min(FLOOR)


def divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(softmax(z_t) ‖ softmax(z_s)) of each row: (B, C), (B, C) → (B,)."""
    log_s, log_t = torch.log_softmax(student_logits, 1), torch.log_softmax(teacher_logits, 1)
    return (log_t.exp() * (log_t - log_s)).sum(1)


def is_target(logits: Tensor, target: Tensor) -> Tensor:
    """(B, C), true at each sample's class."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, target[:, None], True)
