"""Makes two hidden layers comparable: one shape, the student's through a learned linear map.

Every feature becomes a map (B, C, H, W): tokens are laid out on their grid (class and distillation tokens
dropped), a vector is a map of one pixel. The larger map is average-pooled to the smaller one.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from worker.distill.pairing import Layout, Shape, layout


def to_map(layout: Layout, x: Tensor) -> Tensor:
    """(B, …) → (B, C, H, W)"""
    match layout.kind:
        case "map":
            return x
        case "channels last":
            return x.permute(0, 3, 1, 2)
        case "vector":
            return x[:, :, None, None]
        case "tokens":
            grid = x[:, layout.prefix :].reshape(len(x), layout.height, layout.width, layout.channels)
            return grid.permute(0, 3, 1, 2)


def to_vector(layout: Layout, x: Tensor) -> Tensor:
    """(B, …) → (B, C), the mean over all positions: the pooled feature."""
    return x if layout.kind == "vector" else to_map(layout, x).mean(dim=(2, 3))


def pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool (B, C, H, W) to (B, C, *size); size is at most (H, W)."""
    h, w = x.shape[2:]
    if (h, w) == size:
        return x
    if h % size[0] == 0 and w % size[1] == 0:
        # the same numbers as the adaptive one, whose gradient is not deterministic on CUDA
        return F.avg_pool2d(x, (h // size[0], w // size[1]))
    return F.adaptive_avg_pool2d(x, size)


def meet(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, C, H, W), both average-pooled to the smaller height and the smaller width."""
    (h, w), (height, width) = student.shape[2:], teacher.shape[2:]
    size = min(h, height), min(w, width)
    return pool(student, size), pool(teacher, size)


class Bridge(nn.Module):
    """(F_s, F_t) → (W · F_s, F_t) of one shape, W a 1×1 convolution to the teacher's channels."""

    def __init__(self, student: Shape, teacher: Shape, *, image: tuple[int, int]) -> None:
        super().__init__()
        self.student, self.teacher = layout(student, image), layout(teacher, image)
        self.size = (
            min(self.student.height, self.teacher.height),
            min(self.student.width, self.teacher.width),
        )
        self.regressor = nn.Conv2d(self.student.channels, self.teacher.channels, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        # Pooling first: it commutes with a 1×1 convolution and leaves less to convolve.
        student = pool(to_map(self.student, student), self.size)
        return self.regressor(student), pool(to_map(self.teacher, teacher), self.size)
