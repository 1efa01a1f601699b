"""The engine's events become rows and live frames.

Everything is buffered: frames go out every 200 ms, rows are written about once a second, in one transaction
that begins with the fence. So training never waits for a page or for the database; while the database is
away the buffers grow and are written when it is back. Events that come again after a resume change nothing.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Max

from worker.distill.events import Checkpoint, Event, Log, Metrics, Phase, Progress

from . import lifecycle, measurements, metric_store, runspec, stream
from .metric_store import Fenced, Points
from .models import Artifact, LogLine, Run, Series

log = logging.getLogger(__name__)

FRAME_EVERY = 0.2  # seconds
FLUSH_EVERY = 1.0
MAX_LINE = 20_000  # characters of one console line
AWAY = (OperationalError, InterfaceError)


class Recorder:
    """Feed it events, call `tick` often and `close` at the end. Raises Fenced once the run is another's."""

    def __init__(self, run: Run) -> None:
        self.run_id, self.fence = run.pk, run.fence
        self.lines_before = LogLine.objects.filter(run=run).aggregate(last=Max("n"))["last"] or 0
        self.metrics: dict[str, Any] = {s.name: metric_store.summary(s) for s in run.series.all()}
        self.started = run.status == Run.Status.RUNNING
        self.cursor = run.live_cursor
        self.frame: dict[str, Any] = {}
        self.points: dict[str, list[Points]] = defaultdict(list)
        self.lines: list[LogLine] = []
        self.files: list[Checkpoint] = []
        self.values: dict[str, Any] = {}  # columns of the run's row
        self.framed = self.flushed = time.monotonic()
        self.urgent = False

    # --- In ---------------------------------------------------------------------------------------------
    def feed(self, event: Event) -> None:
        match event:
            case Metrics():
                self._metrics(event)
            case Log():
                self._line(event)
            case Progress():
                self._progress(event)
            case Phase():
                text = f"{event.name}: {event.detail}" if event.detail else event.name
                self.values["phase"] = self.frame["phase"] = text[:200]
                self.urgent = True
            case Checkpoint():
                # At once: after a crash the run goes on from the newest checkpoint that is in the database.
                self.files.append(event)
                self.urgent = True
            case _:
                pass  # how it ended is the task's to say

    def _metrics(self, event: Metrics) -> None:
        frames = self.frame.setdefault("points", {})
        for name, values in event.values.items():
            block = metric_store.points(event.steps, values, event.wall)
            self.points[name].append(block)
            frame = frames.setdefault(name, {"s": [], "v": [], "w": []})
            for key, part in block.lists().items():
                frame[key] += part

    def _line(self, event: Log) -> None:
        number = self.lines_before + len(self.lines) + 1
        text = event.text.replace("\x00", "")[:MAX_LINE]  # PostgreSQL takes no NUL
        line = LogLine(run_id=self.run_id, n=number, wall=event.wall, level=event.level, text=text)
        self.lines.append(line)
        shown = {"n": number, "wall": event.wall, "level": event.level, "text": text}
        self.frame.setdefault("log", []).append(shown)

    def _progress(self, event: Progress) -> None:
        self.values |= {
            "step": event.step,
            "total_steps": event.total_steps,
            "epoch": event.epoch,
            "epoch_steps": event.total_steps // event.epochs if event.epochs else 0,
            "rate": event.rate,
            "eta": event.eta,
        }
        self.frame["progress"] = event.model_dump(exclude={"type"})

    # --- Out --------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """Send and write what is due."""
        now = time.monotonic()
        if now - self.framed >= FRAME_EVERY:
            self._publish()
        if now - self.flushed >= FLUSH_EVERY or (self.urgent and now - self.flushed >= FRAME_EVERY):
            self.flush()

    def close(self, patience: float = 600.0) -> bool:
        """Write the rest. Waits for a database that is away; False when it stayed away too long."""
        end = time.monotonic() + patience
        while not self.flush():
            if time.monotonic() > end:
                return False
            time.sleep(1.0)
        return True

    def _publish(self) -> None:
        self.framed = time.monotonic()
        if self.frame:
            frame, self.frame = self.frame, {}
            self.cursor = stream.publish(self.run_id, frame) or self.cursor

    def flush(self) -> bool:
        """Everything so far into the database, in one transaction. False: it is away, all is kept."""
        self._publish()  # so that the cursor stands behind every point that is written now
        self.flushed = time.monotonic()
        if not (self.points or self.lines or self.files or self.values):
            return True
        new = {name: metric_store.join(blocks) for name, blocks in self.points.items()}
        try:
            with transaction.atomic():
                metrics = self._write(new)
        except AWAY as error:
            log.warning("Run %s: the database is away (%s); keeping everything.", self.run_id, error)
            connection.close()
            return False
        self.metrics, self.urgent = metrics, False
        self.lines_before += len(self.lines)
        self.points.clear()
        self.lines, self.files, self.values = [], [], {}
        return True

    def _write(self, new: dict[str, Points]) -> dict[str, Any]:
        changed = metric_store.append(self.run_id, self.fence, new)
        metrics = self.metrics | {name: metric_store.summary(series) for name, series in changed.items()}
        values = self.values | {"metrics": metrics, "live_cursor": self.cursor}
        if any(name in changed for name in measurements.SCORE_SERIES):
            values["accuracy"] = measurements.best_validation(metrics)
        if not lifecycle.write(self.run_id, self.fence, **values):
            raise Fenced(f"attempt {self.fence} of run {self.run_id} may not write any more")
        if new and not self.started:
            lifecycle.running(self.run_id, self.fence)
            transaction.on_commit(self._has_started)
        LogLine.objects.bulk_create(self.lines, batch_size=500)
        for event in self.files:
            self._file(event)
        return metrics

    def _has_started(self) -> None:
        self.started = True

    def _file(self, event: Checkpoint) -> None:
        values = {"kind": event.kind, "sha256": event.sha256, "bytes": event.bytes, "step": event.step}
        Artifact.objects.update_or_create(
            run_id=self.run_id, path=_below_data(event.path), defaults=values | {"fence": self.fence}
        )
        if event.kind == "resume":
            transaction.on_commit(self._forget_old_checkpoints)

    def _forget_old_checkpoints(self) -> None:
        """The engine keeps two; those of earlier attempts are of no use once this one has its own."""
        for old in Artifact.objects.filter(run_id=self.run_id, kind=Artifact.Kind.RESUME):
            if old.fence < self.fence:
                old.full_path.unlink(missing_ok=True)
            if not old.full_path.exists():
                old.delete()


def _below_data(path: str) -> str:
    return str(Path(path).absolute().relative_to(Path(settings.KDWEB_DATA).absolute()))


def _put(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def go_back(run: Run) -> None:
    """Before a further attempt: to the newest checkpoint that has both row and file, else to the start.

    Its file is put into the attempt's own folder, where the engine looks; points beyond it are forgotten and
    will be logged again. A checkpoint without a row does not count: points before it may not be written.
    """
    folder = runspec.attempt_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    whole = [a for a in run.artifacts.filter(kind=Artifact.Kind.RESUME) if a.full_path.exists()]
    step = 0
    if whole:
        newest = max(whole, key=lambda artifact: (artifact.step, artifact.pk))
        step = newest.step
        _put(newest.full_path, folder / newest.full_path.name)
    for series in Series.objects.filter(run=run, last_step__gt=step):
        metric_store.trim(series, step, run.fence)
    metrics = {series.name: metric_store.summary(series) for series in run.series.all()}
    best = measurements.best_validation(metrics)
    lifecycle.write(run.pk, run.fence, step=step, metrics=metrics, accuracy=best)
