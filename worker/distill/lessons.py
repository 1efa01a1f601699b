"""What the teachers say of each batch: computed at the step, or looked up in the cache of an earlier pass.

The cache holds the teachers' outputs of whole views: every training sample as augmentation shows it in one
epoch. Augmentation is counter-based, so a view is the same for every run that asks for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worker.distill.assemble import Run, Stage
from worker.distill.batches import Batch, memory_format
from worker.distill.data.prepared import Split
from worker.distill.evaluate import predict
from worker.distill.events import Reporter, Resumed
from worker.distill.objective import Wanted
from worker.distill.teacher_cache import Table, TeacherCache, cache_key
from worker.distill.teachers import Look, Outputs


class Lessons:
    """`with lessons.about(stage, wanted):` then begin(epoch), and look(batch, inputs) at each step."""

    def __init__(self, run: Run, report: Reporter, should_stop: Callable[[], bool]) -> None:
        self.run, self.report, self.should_stop = run, report, should_stop
        self.why_not = self._why_not()
        self.cached = not self.why_not  # until a view does not fit
        self.promised = False  # whether the attempt before this one had them cached
        self.caches: list[TeacherCache] = []  # one for each part of the run
        self.live: Look | None = None
        self.cache: TeacherCache | None = None
        self.table: Table | None = None
        self.strong: Table | None = None
        self.stage = run.stages[-1]

    def resume(self, cached: bool) -> list[str]:
        """A run that computed goes on computing: rounded outputs differ in the last bits.

        What stands against an exact resume, in words: that they were cached, and are no longer.
        """
        self.cached, self.promised = self.cached and cached, cached
        return self._broken(self.why_not) if self.run.teachers is not None else []

    def _broken(self, reason: str) -> list[str]:
        """Once: a promise is broken if there is one and the outputs are not cached any more."""
        broken, self.promised = self.promised and not self.cached, self.promised and self.cached
        return [f"the teacher's outputs were cached and are now computed, unrounded ({reason})"] * broken

    @contextmanager
    def about(self, stage: Stage, wanted: Wanted) -> Iterator[None]:
        self.stage, self.cache, self.live = stage, None, None
        run = self.run
        if run.teachers is None or not (stage.prelude or run.loss.main):
            yield  # nobody asks the teachers
            return
        with Look(run.teachers, wanted, run.autocast) as self.live:
            if self.cached:
                self.cache = self._open(wanted)
            yield
        self.table = self.strong = None

    def begin(self, epoch: int) -> None:
        """Have the epoch's views at hand, if they are to be had at all."""
        self.table = self.strong = None
        if self.cache is None or not self.cached:
            return
        view, augment = self.run.view(epoch - self.stage.start), self.run.augment
        split = self.run.data.split("train")
        name = f"s{view[0]}.v{view[1]}" if self.run.spec.training.augment else "plain"
        with self.run.group.leader_first():
            self.table = self._table(name, split, lambda images, index: self._seen(images, index, view))
            if self.table is not None and not self.stage.prelude and self.run.loss.needs("views"):
                self.strong = self._table(
                    f"strong.s{view[0]}.v{view[1]}",
                    split,
                    lambda images, index: augment.strong(images, index, seed=view[0], view=view[1]),
                )
                self.table = self.table if self.strong is not None else None
        self.cached = not self.run.group.any(self.table is None)
        if not self.cached:
            self.table = self.strong = None
            for why in self._broken(self.cache.why_not):
                self.report(Resumed(step=self.run.step, exact=False, why=why))

    def look(self, batch: Batch, inputs: Tensor, *, strong: bool = False) -> Outputs:
        """The outputs for the batch, whose images `inputs` are; {} where nobody asks the teachers."""
        if self.live is None:
            return {}
        table = self.strong if strong else self.table
        if table is not None:
            return table.rows(batch.index)
        whole, rows = self.run.group.whole, len(batch.index)
        return {name: whole(value, rows) for name, value in self.live(inputs).items()}

    def answers(self, split: str) -> Tensor:
        """The teachers' common logits (N, C) on a split, not augmented; kept as the lessons are."""
        run = self.run
        assert run.teachers is not None
        data, nothing = run.data.split(split), Wanted((), (), {}, {})
        if run.spec.cache is not None:
            self.cache = self._open(nothing)
            with Look(run.teachers, nothing) as self.live:
                table = self._table(f"{split}.plain", data, lambda images, _: run.augment.normalise(images))
            if table is not None:
                return table.rows(torch.arange(len(data)))["logits"]
        return predict(run.teachers, data, run.augment, device=run.device, should_stop=self.should_stop)

    def summary(self) -> dict[str, Any] | None:
        """What the cache saved, for the result; None for a run without a teacher.

        reused, computed: views. rows: outputs looked up. seconds_saved: an estimate.
        """
        if self.run.teachers is None:
            return None
        parts = [cache.summary() for cache in self.caches]
        names = {
            "reused": "views_reused",
            "computed": "views_computed",
            "rows": "rows_served",
            "seconds_computing": "seconds_computing",
            "seconds_saved": "seconds_saved_estimate",
            "bytes": "bytes_on_disk",
        }
        total = {name: sum(part[long] for part in parts) for name, long in names.items()}
        reasons = [part["why_not"] for part in parts if part["why_not"]]
        return total | {"reason": self.why_not or "; ".join(reasons)}

    def _why_not(self) -> str:
        training = self.run.spec.training
        if self.run.spec.cache is None:
            return "no folder for the cache was given"
        if training.mixup or training.cutmix:
            return "mixed images are new at every step"
        return ""

    def _seen(self, images: Tensor, index: Tensor, view: tuple[int, int]) -> Tensor:
        augment = self.run.augment
        if not self.run.spec.training.augment:
            return augment.normalise(images)
        return augment(images, index, seed=view[0], view=view[1])

    def _open(self, wanted: Wanted) -> TeacherCache:
        given = self.run.spec.cache
        assert given is not None
        key = cache_key(self._identity(wanted))
        self.caches.append(TeacherCache(Path(given.folder), given.budget, key, self.report))
        return self.caches[-1]

    def _table(self, name: str, split: Split, shown: Callable[[Tensor, Tensor], Tensor]) -> Table | None:
        device, cache = self.run.device, self.cache
        assert cache is not None

        def compute(index: Tensor) -> Outputs:
            assert self.live is not None
            images = _images(split, index).to(device)
            inputs = shown(images, index.to(device))
            return self.live(inputs.contiguous(memory_format=memory_format(device)))

        return cache.table(name, len(split), compute, self.should_stop)

    def _identity(self, wanted: Wanted) -> dict[str, Any]:
        """Everything the outputs depend on."""
        run = self.run
        assert run.teachers is not None
        return {
            "teachers": weights_hash(run.teachers),
            "architectures": [
                ref.architecture for ref in (run.spec.teacher, *run.spec.more_teachers) if ref is not None
            ],
            "mixing": run.spec.mixing.model_dump(mode="json"),
            "data": run.data.meta.fingerprint,
            "precision": run.spec.training.precision,
            "device": run.device.type,
            "outputs": [*wanted.teacher, *(f"vector:{path}" for path in wanted.teacher_vectors)],
        }


def weights_hash(model: nn.Module) -> str:
    """sha256 over a network's state: names, shapes, values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _images(split: Split, index: Tensor) -> Tensor:
    """(B, C, H, W) uint8; the index is a block of consecutive samples, so this reads the disk in order."""
    first, last = int(index[0]), int(index[-1])
    return torch.from_numpy(np.array(split.images[first : last + 1]))
