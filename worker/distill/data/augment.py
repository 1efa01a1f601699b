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

STRONG = 2**40  # strong views draw from counters that no plain view reaches
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
        self._mean = mean.float()
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

    def strong(self, images: Tensor, index: Tensor, *, seed: int, view: int) -> Tensor:
        """The view of `__call__`, then two changes of light of six, a shift, and a grey box pasted in.

        In the manner of RandAugment (Cubuk et al. 2020, arXiv 1909.13719) with Cutout (DeVries & Taylor 2017,
        arXiv 1708.04552), each sample's changes a function of (seed, view, sample) alone.
        """
        self._to(images.device)
        light = self(images, index, seed=seed, view=view) / self._scale / 255 + self._mean  # 0 … 1
        for k in range(2):
            bits = random_bits(index.to(images.device), seed, STRONG + 2 * view + k)
            light = _relit(light, bits)
        bits = random_bits(index.to(images.device), seed, 2 * STRONG + view)
        return ((_cut(_shifted(light, bits), bits >> 24) - self._mean) * 255) * self._scale

    def _to(self, device: torch.device) -> None:
        if self._scale.device != device:
            for name in ("_scale", "_shift", "_mean", "_rows", "_columns"):
                setattr(self, name, getattr(self, name).to(device))


def _unit(bits: Tensor) -> Tensor:
    """The lowest 20 bits as a number in [0, 1), of shape (B, 1, 1, 1)."""
    return ((bits & 0xFFFFF).float() / 2**20).view(-1, 1, 1, 1)


def _relit(x: Tensor, bits: Tensor) -> Tensor:
    """One of six changes of light for each image (B, C, H, W) in 0 … 1."""
    amount, which = _unit(bits), ((bits >> 40) % 6).view(-1, 1, 1, 1)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    levels = 2.0 ** (2 + (amount * 5).floor())
    changes = (
        x + 0.6 * (amount - 0.5),  # brightness
        mean + (x - mean) * (0.3 + 1.4 * amount),  # contrast
        x.clamp_min(1e-6) ** (0.5 + 1.5 * amount),  # gamma
        1 - x,  # invert
        torch.where(x >= 0.4 + 0.6 * amount, 1 - x, x),  # solarise
        (x * levels).floor() / levels,  # posterise
    )
    for k, changed in enumerate(changes):
        x = torch.where(which == k, changed, x)
    return x.clamp(0, 1)


def _shifted(x: Tensor, bits: Tensor) -> Tensor:
    """Each image moved by up to an eighth of its size, black where it left."""
    height, width = x.shape[2:]
    down = ((bits & 0xFFF) % (2 * (height // 8) + 1)) - height // 8  # (B,)
    right = (((bits >> 12) & 0xFFF) % (2 * (width // 8) + 1)) - width // 8
    rows = torch.arange(height, device=x.device) - down[:, None]  # (B, H), where a pixel comes from
    columns = torch.arange(width, device=x.device) - right[:, None]
    inside = _within(rows, 0, height)[:, :, None] & _within(columns, 0, width)[:, None, :]
    where = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    where = where.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, where).view_as(x) * inside[:, None]


def _cut(x: Tensor, bits: Tensor) -> Tensor:
    """A box of a quarter of height and width becomes grey."""
    height, width = x.shape[2:]
    tall, wide = max(1, height // 4), max(1, width // 4)
    top, left = (bits & 0xFFF) % (height - tall + 1), ((bits >> 12) & 0xFFF) % (width - wide + 1)
    rows = _within(torch.arange(height, device=x.device) - top[:, None], 0, tall)
    columns = _within(torch.arange(width, device=x.device) - left[:, None], 0, wide)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], 0.5, x)


def _within(x: Tensor, low: int, end: int) -> Tensor:
    return (x >= low) & (x < end)


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
