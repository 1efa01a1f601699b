"""Standard augmentation, counter-based: view v of sample i under seed s is a pure function of (s, v, i).

No generator, no state: a sample's view does not depend on its batch, on the order of the epoch, on the
device, or on what was drawn before. So a run can be resumed anywhere, and a teacher's outputs on view v
can be computed once and used by every student.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from worker.distill.data.prepared import Meta

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1


def _signed(x: int) -> int:
    """A 64-bit pattern as torch's int64 wants it."""
    return x - 2**64 if x >= 2**63 else x


def _mix(x: int) -> int:
    """SplitMix64's finaliser. Steele, Lea & Flood 2014."""
    x = (x ^ (x >> 30)) * _M1 & _MASK
    x = (x ^ (x >> 27)) * _M2 & _MASK
    return x ^ (x >> 31)


def random_bits(index: Tensor, seed: int, view: int) -> Tensor:
    """64 random bits (int64) for each sample index (B,): SplitMix64 with a key from (seed, view)."""
    key = _mix(_mix(seed & _MASK) + (view + 1) * _GOLDEN & _MASK)
    x = index * _signed(_GOLDEN) + _signed(key)  # int64 arithmetic wraps, as it should
    for shift, factor in ((30, _M1), (27, _M2)):
        # torch's >> keeps the sign; the mask makes it the logical shift of the definition
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)
    return x ^ ((x >> 31) & (2**33 - 1))


class Augment:
    """Pad and crop, mirror, normalise: a dataset's standard augmentation, on the images' device."""

    def __init__(self, meta: Meta) -> None:
        self.height, self.width = meta.height, meta.width
        self.padding, self.flip = meta.augment.padding, meta.augment.flip
        self.padding_mode = {"zero": "constant", "reflect": "reflect"}[meta.augment.padding_mode]
        mean = torch.tensor(meta.mean, dtype=torch.float64).view(1, -1, 1, 1)
        std = torch.tensor(meta.std, dtype=torch.float64).view(1, -1, 1, 1)
        # (x / 255 − mean) / std as one product and one difference
        self._scale, self._shift = (1 / (255 * std)).float(), (mean / std).float()
        self._rows, self._columns = torch.arange(self.height), torch.arange(self.width)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) → float32 (B, C, H, W), zero mean and unit variance over the training split."""
        self._to(images.device)
        return images.to(torch.float32).mul_(self._scale).sub_(self._shift)

    def __call__(self, images: Tensor, index: Tensor, *, seed: int, view: int) -> Tensor:
        """View `view` of the samples `index` (B,), whose images (B, C, H, W) uint8 these are."""
        self._to(images.device)
        if not self.padding and not self.flip:
            return self.normalise(images)
        bits = random_bits(index.to(images.device), seed, view)  # (B,)
        p, offsets = self.padding, 2 * self.padding + 1
        down = (bits & 0xFFFFF) % offsets
        right = ((bits >> 20) & 0xFFFFF) % offsets
        rows = down[:, None] + self._rows  # (B, H), in the padded image
        columns = right[:, None] + self._columns  # (B, W)
        if self.flip:
            mirrored = ((bits >> 40) & 1).bool()[:, None]
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(images, (p, p, p, p), mode=self.padding_mode) if p else images
        flat = padded.flatten(2)  # (B, C, (H + 2p)(W + 2p))
        where = rows[:, :, None] * (self.width + 2 * p) + columns[:, None, :]  # (B, H, W)
        where = where.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        return self.normalise(flat.gather(2, where).view_as(images))

    def _to(self, device: torch.device) -> None:
        if self._scale.device != device:
            for name in ("_scale", "_shift", "_rows", "_columns"):
                setattr(self, name, getattr(self, name).to(device))


def mix(
    inputs: Tensor, index: Tensor, *, seed: int, view: int, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend each image with another of the batch, or paste a box of it in: a function of (seed, view, index).

    inputs (B, C, H, W) → the mixed ones, the partners' positions in the batch (B,), and each image's own
    share (B,). One share λ ~ Beta(α, α) a batch; where both α are given, a coin decides which is done.
    Zhang et al. 2018 (arXiv 1710.09412); Yun et al. 2019 (arXiv 1905.04899), equation 2.
    """
    random = np.random.default_rng([seed, view, int(index[0])])
    partner = torch.from_numpy(random.permutation(len(inputs))).to(inputs.device)
    paste = bool(cutmix) and (not mixup or random.random() < 0.5)
    alpha = cutmix if paste else mixup
    share = float(random.beta(alpha, alpha))
    if not paste:
        mixed = torch.lerp(inputs[partner], inputs, share)
        return mixed, partner, inputs.new_full((len(inputs),), share)
    height, width = inputs.shape[2:]
    side = (1 - share) ** 0.5
    middle = random.random(2) * (height, width)
    top, bottom = _span(middle[0], side * height, height)
    left, right = _span(middle[1], side * width, width)
    mixed = inputs.clone()
    mixed[:, :, top:bottom, left:right] = inputs[partner, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)  # what the border cut off is not pasted
    return mixed, partner, inputs.new_full((len(inputs),), share)


def _span(middle: float, length: float, end: int) -> tuple[int, int]:
    """From and to of a stretch around `middle`, cut at 0 and at `end`."""
    return max(0, round(middle - length / 2)), min(end, round(middle + length / 2))
