"""The training split in a seeded order. Batch k of epoch e is a pure function of (seed, e, k)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.distill.data.prepared import Split
from worker.distill.spec import SpecError

AHEAD = 3  # batches gathered while the network is busy with one


@dataclass(frozen=True, slots=True)
class Batch:
    images: Tensor  # (B, C, H, W) uint8, on the device
    labels: Tensor  # (B,) int64, or (B, C) uint8 of zeros and ones
    index: Tensor  # (B,) positions in the split


class Batches:
    """Holds the split on the device where it fits; where it does not, the next batches are gathered from the
    memory map in the background."""

    def __init__(self, split: Split, batch_size: int, seed: int, device: torch.device) -> None:
        self.size, self.batch_size, self.seed, self.device = len(split.labels), batch_size, seed, device
        full, rest = divmod(self.size, batch_size)
        # Batch norm has no variance over one sample: a last batch of one is left out (each epoch another).
        self.steps = full + (rest > 1 or (rest == 1 and batch_size == 1))
        if not self.steps:
            raise SpecError("dataset", self.size, "too few training images.", "Use a dataset with more.")
        self.mapped = split.images
        self.images = self._resident(split.images)
        self.labels = torch.from_numpy(np.array(split.labels)).to(device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one pass, from batch `start` on."""
        order = self.order(epoch)
        parts = [order[k * self.batch_size : (k + 1) * self.batch_size] for k in range(start, self.steps)]
        if self.images is None:
            with closing(ahead(self._gather, parts)) as gathered:
                for part, rows in zip(parts, gathered, strict=True):
                    index = part.to(self.device)
                    images = rows.to(self.device, non_blocking=True)
                    yield Batch(images, self.labels[index], index)
            return
        on_device = order.to(self.device)
        for k in range(start, self.steps):
            index = on_device[k * self.batch_size : (k + 1) * self.batch_size]
            yield Batch(self.images[index], self.labels[index], index)

    def order(self, epoch: int) -> Tensor:
        """(N,) the permutation of one epoch; drawn on the CPU, so that it is the same on every device."""
        key = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
        return torch.randperm(self.size, generator=torch.Generator().manual_seed(key))

    def _resident(self, images: NDArray[np.uint8]) -> Tensor | None:
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            free = psutil.virtual_memory().available
        return torch.from_numpy(np.array(images)).to(self.device) if images.nbytes < free / 4 else None

    def _gather(self, index: Tensor) -> Tensor:
        """The images (B, C, H, W) of these positions, read from disk; pinned for CUDA."""
        rows = torch.from_numpy(np.take(self.mapped, index.numpy(), axis=0))
        return rows.pin_memory() if self.device.type == "cuda" else rows


def ahead(gather: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> Generator[Tensor, None, None]:
    """gather(part) for each part in order, up to AHEAD of them beforehand in a thread of its own.

    What goes wrong in the thread is raised where its result would have come. The thread ends with the
    iterator: used up, closed or forgotten.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        waiting = deque(pool.submit(gather, part) for part in parts[:AHEAD])
        for k in range(len(parts)):
            rows = waiting.popleft().result()
            if k + AHEAD < len(parts):
                waiting.append(pool.submit(gather, parts[k + AHEAD]))
            yield rows
    finally:
        pool.shutdown(cancel_futures=True)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last is what convolutions are fastest with on CPUs and on CUDA."""
    return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format
