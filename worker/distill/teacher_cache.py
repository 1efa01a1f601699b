"""What the teachers say of whole views of a dataset, kept between runs: computed once, looked up ever after.

On disk: `<folder>/<key>/<view>/`. A view is written aside and renamed, so it is whole or absent. What is
looked up is the same, number for number, whether it was just computed, found on disk, or is held in memory
because the disk was full.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import psutil
import torch
from torch import Tensor

from worker.distill.errors import StopRequested
from worker.distill.evaluate import never
from worker.distill.events import Log, Reporter
from worker.distill.teacher_table import (
    MANIFEST,
    Block,
    Column,
    Manifest,
    Outputs,
    Pass,
    Table,
    Usage,
    open_columns,
    pack,
)

__all__ = ["Table", "TeacherCache", "cache_key"]

BLOCK = 128  # samples a forward: fixed, because a sum's last bits depend on the size of the batch
KEPT_OPEN = 8  # views whose maps, and copies on the device, are kept
STALE = 3600.0  # seconds without a block after which a pass is taken for dead

# Tables on disk that somebody in this process holds, by folder: not to be evicted.
_alive: WeakValueDictionary[Path, Table] = WeakValueDictionary()


def cache_key(parts: dict[str, Any]) -> str:
    """A name for everything the outputs depend on: sha256 of its canonical JSON."""
    content = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()


class TeacherCache:
    """The views of one key, in a folder that other keys and other processes share."""

    def __init__(self, folder: Path, budget: int, key: str, report: Reporter) -> None:
        self.folder, self.budget, self.key, self.report = Path(folder).absolute(), budget, key, report
        self.home = self.folder / key
        self.why_not = ""
        self._usage: dict[str, Usage] = {}  # of every view this run has asked for
        self._reused: set[str] = set()
        self._computed: set[str] = set()
        self._checked: dict[str, bytes] = {}  # view → the manifest its files were compared with
        self._open: OrderedDict[str, Table] = OrderedDict()
        self._memory: OrderedDict[str, Table] = OrderedDict()

    def table(
        self,
        view: str,
        n: int,
        compute: Callable[[Tensor], Outputs],
        should_stop: Callable[[], bool] = never,
    ) -> Table | None:
        """The outputs of the samples 0…n−1 under a view: from disk, or computed in one ascending pass.

        compute: (B,) ascending indices → the outputs (B, …) by name. None: they do not fit; `why_not` says
        why, and so does the log, once. Raises StopRequested; nothing half-written stays.
        """
        if not re.fullmatch(r"\w[\w.-]*", view):
            raise ValueError(f"view = {view!r}: it names a folder. Use letters, digits, '.', '-' and '_'.")
        self._usage.setdefault(view, Usage())
        if view in self._memory:
            return self._memory[view]
        if view in self._open:
            self._touch(view)
            return self._open[view]
        if (table := self._load(view, n)) is not None:
            if view not in self._computed:
                self._reused.add(view)
            return table
        return self._pass(view, n, compute, should_stop)

    def summary(self) -> dict[str, Any]:
        """What the cache did for this run."""
        usages = self._usage.values()
        return {
            "views_reused": len(self._reused),
            "views_computed": len(self._computed),
            "rows_served": sum(usage.rows for usage in usages),
            "seconds_computing": round(sum(usage.rate * usage.paid for usage in usages), 3),
            # An estimate: the rows looked up again, times what computing a row took.
            "seconds_saved_estimate": round(sum(usage.saved for usage in usages), 3),
            "bytes_on_disk": sum(_bytes(self.home / view) for view in self._usage),
            "why_not": self.why_not,
        }

    # ---- on disk

    def _load(self, view: str, n: int) -> Table | None:
        """The view, if it is on disk and whole. A damaged one is said and dropped."""
        folder = self.home / view
        try:
            content = (folder / MANIFEST).read_bytes()
            manifest = Manifest.model_validate_json(content)
            columns = open_columns(folder, manifest, n, hashed=self._checked.get(view) != content)
        except (OSError, ValueError) as error:
            if folder.exists():  # and was not evicted just now
                reason = str(error).splitlines()[0]
                text = (
                    f"The teacher's cached outputs in {folder} are damaged ({reason}); computing them again."
                )
                self.report(Log(level="warning", text=text))
                _drop(folder)
            return None
        self._checked[view] = content
        return self._opened(view, columns, manifest.seconds / n)

    def _opened(self, view: str, columns: dict[str, Column], rate: float) -> Table:
        usage = self._usage[view]
        usage.rate = rate
        self._open[view] = _alive[self.home / view] = table = Table(columns, usage)
        if len(self._open) > KEPT_OPEN:
            self._open.popitem(last=False)
        self._touch(view)
        return table

    def _touch(self, view: str) -> None:
        """Note that it was used now. A folder that may only be read is no obstacle."""
        self._open.move_to_end(view)
        with contextlib.suppress(OSError):
            os.utime(self.home / view / MANIFEST)

    # ---- computing

    def _pass(
        self, view: str, n: int, compute: Callable[[Tensor], Outputs], should_stop: Callable[[], bool]
    ) -> Table | None:
        seconds = 0.0
        kept: Pass | None = None
        try:
            for start in range(0, n, BLOCK):
                if should_stop():
                    raise StopRequested
                began = time.perf_counter()
                outputs = compute(torch.arange(start, min(start + BLOCK, n)))
                block = {name: pack(value) for name, value in outputs.items()}
                seconds += time.perf_counter() - began
                if kept is None:
                    kept = Pass(n, {name: tuple(value.shape[1:]) for name, value in outputs.items()})
                    if not self._begin(kept):
                        return None
                if not self._append(kept, start, block):
                    return None
            assert kept is not None, n
            return self._finish(view, kept, seconds)
        finally:
            if kept is not None:
                kept.discard()

    def _begin(self, kept: Pass) -> bool:
        """Find a place for a pass; False when there is none."""
        need = kept.nbytes + 1024 * (len(kept.shapes) + 1)  # headers and the manifest
        if not self._make_room(need):
            first, *others = sorted(kept.shapes, key=lambda name: -math.prod(kept.shapes[name]))
            more = f" (with {len(others)} smaller)" if others else ""
            return self._refuse(
                f"keeping {first}{more} needs {_words(need)} of a budget of {_words(self.budget)}"
            )
        try:
            kept.create(self.home / f".computing-{uuid.uuid4().hex[:12]}")
        except OSError as error:
            return self._to_memory(kept, 0, error)
        return True

    def _append(self, kept: Pass, start: int, block: Block) -> bool:
        try:
            kept.append(start, block)
        except OSError as error:
            if not self._to_memory(kept, start, error):
                return False
            kept.append(start, block)
        return True

    def _finish(self, view: str, kept: Pass, seconds: float) -> Table | None:
        """Publish a pass that has come to its end."""
        if kept.halves is None:
            try:
                table = self._publish(view, kept, seconds)
            except OSError as error:
                if not self._to_memory(kept, kept.n, error):
                    return None
        if kept.halves is not None:
            self._memory[view] = table = Table(kept.columns(), self._usage[view])
        table.usage.paid += kept.n
        table.usage.rate = seconds / kept.n
        self._computed.add(view)
        return table

    def _publish(self, view: str, kept: Pass, seconds: float) -> Table:
        """Rename the pass into its place, or use what another process has put there first. Raises OSError."""
        assert kept.folder is not None
        manifest = kept.complete(seconds)
        columns = open_columns(kept.folder, manifest, kept.n, hashed=False)  # a map outlives its file's name
        try:
            os.rename(kept.folder, self.home / view)
        except OSError:
            if (theirs := self._load(view, kept.n)) is not None:
                return theirs
            os.rename(kept.folder, self.home / view)  # theirs was damaged, and is gone
        return self._opened(view, columns, seconds / kept.n)

    def _to_memory(self, kept: Pass, done: int, error: OSError) -> bool:
        """The disk does not take it: hold the view in memory, of which such views get a quarter at most."""
        held = sum(table.nbytes for table in self._memory.values())
        limit = (_available() + held) // 4
        what = f"the cache in {self.folder} cannot be written ({error.strerror or error})"
        if kept.nbytes > limit:
            return self._refuse(f"{what}, and memory has no room for {_words(kept.nbytes)}", "warning")
        while held + kept.nbytes > limit:
            held -= self._memory.popitem(last=False)[1].nbytes
        kept.to_memory(done)
        if self.why_not != what:
            text = f"The teacher's outputs are kept in memory, for this run alone: {what}."
            self.report(Log(level="warning", text=text))
        self.why_not = what
        return True

    def _refuse(self, reason: str, level: Literal["info", "warning"] = "info") -> bool:
        if self.why_not != reason:
            self.report(Log(level=level, text=f"The teacher is computed at each step: {reason}."))
        self.why_not = reason
        return False

    # ---- room

    def _make_room(self, need: int) -> bool:
        """Drop what was used longest ago, of other keys first, until `need` more bytes fit the budget.

        Views that this process has used stay; where they leave too little room, nothing is dropped.
        """
        self._sweep()
        views = [path.parent for path in self.folder.glob(f"*/*/{MANIFEST}")]
        sizes = {view: _bytes(view) for view in views if view not in _alive and not self._is_used(view)}
        over = _bytes(self.folder) + need - self.budget
        if over > sum(sizes.values()):
            return False
        for view in sorted(sizes, key=lambda view: (view.parent == self.home, _mtime(view / MANIFEST))):
            if over <= 0:
                break
            _drop(view)
            over -= sizes[view]
        return True

    def _is_used(self, view: Path) -> bool:
        return view.parent == self.home and view.name in self._reused | self._computed

    def _sweep(self) -> None:
        """Remove what a process that was killed had been computing."""
        for folder in self.folder.glob("*/.*/"):
            last = max(map(_mtime, [folder, *folder.glob("*")]))
            if time.time() - last > STALE:
                shutil.rmtree(folder, ignore_errors=True)


def _drop(view: Path) -> None:
    """Out of sight at once, so that nobody finds half of it. Maps that others hold stay readable."""
    aside = view.parent / f".dropped-{uuid.uuid4().hex[:12]}"
    with contextlib.suppress(OSError):
        os.rename(view, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return math.inf


def _available() -> int:
    """Bytes of memory that are free."""
    available: int = psutil.virtual_memory().available
    return available


def _words(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
