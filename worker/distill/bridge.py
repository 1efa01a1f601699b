"""Makes two hidden layers comparable: one shape, the student's through a learned linear map.

Every feature becomes a map (B, C, H, W): tokens are laid out on their grid (class and distillation tokens
dropped), a vector is a map of one pixel. The larger map is average-pooled to the smaller one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]
MAX_PREFIX = 16  # class, distillation and register tokens before the grid


@dataclass(frozen=True)
class Layout:
    """How a feature of some shape is read as a map."""

    kind: Literal["map", "channels last", "tokens", "vector"]
    channels: int
    height: int
    width: int
    prefix: int = 0

    def to_map(self, x: Tensor) -> Tensor:
        """(B, …) → (B, C, H, W)"""
        match self.kind:
            case "map":
                return x
            case "channels last":
                return x.permute(0, 3, 1, 2)
            case "vector":
                return x[:, :, None, None]
            case "tokens":
                grid = x[:, self.prefix :].reshape(len(x), self.height, self.width, self.channels)
                return grid.permute(0, 3, 1, 2)


def layout(shape: Shape, image: tuple[int, int]) -> Layout:
    """Read a shape (without batch) as a map; image (H, W) tells square from oblong. ValueError if none."""
    match shape:
        case (c,):
            return Layout("vector", c, 1, 1)
        case (n, c):
            prefix, h, w = _grid(n, image)
            return Layout("tokens", c, h, w, prefix)
        case (a, b, c):
            # Swin-like nets put channels last: then the first two have the image's proportions
            if _alike(a, b, image) and not _alike(b, c, image):
                return Layout("channels last", c, a, b)
            return Layout("map", a, b, c)
    raise ValueError(f"an output of shape {shape} is neither a map, nor tokens, nor a vector")


def _alike(h: int, w: int, image: tuple[int, int]) -> bool:
    return h * image[1] == w * image[0]


def _grid(n: int, image: tuple[int, int]) -> tuple[int, int, int]:
    """n tokens as (prefix, H, W) with the image's proportions and the fewest tokens before the grid."""
    for prefix in range(min(n, MAX_PREFIX + 1)):
        h = math.isqrt((n - prefix) * image[0] // image[1])
        for height in (h, h + 1):
            width, rest = divmod(n - prefix, height) if height else (0, 1)
            if not rest and _alike(height, width, image):
                return prefix, height, width
    raise ValueError(f"{n} tokens form no grid of the image's proportions ({image[0]} × {image[1]})")


def pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool (B, C, H, W) to (B, C, *size); size is at most (H, W)."""
    h, w = x.shape[2:]
    if (h, w) == size:
        return x
    if h % size[0] == 0 and w % size[1] == 0:
        # the same numbers as the adaptive one, whose gradient is not deterministic on CUDA
        return F.avg_pool2d(x, (h // size[0], w // size[1]))
    return F.adaptive_avg_pool2d(x, size)


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
        student = pool(self.student.to_map(student), self.size)
        return self.regressor(student), pool(self.teacher.to_map(teacher), self.size)
