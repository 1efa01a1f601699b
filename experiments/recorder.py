"""The engine's events become rows and live frames.

Everything is buffered: a frame goes out with each block of the engine's (every 200 ms), rows are written
about once a second, in one transaction that begins with the fence. So training never waits for a page or for
the database; while the database is away events go into a journal on the local disk, and from there into the
database when it is back. Events that come again after a resume change nothing.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from worker.distill.events import Checkpoint, Event, Log, Metrics, Phase, Progress, Resumed

from . import checkpoints, lifecycle, measurements, metric_store, odd, runspec, stream
from .database import AWAY, let_go
from .journal import Journal
from .metric_store import Fenced, Points
from .models import Artifact, LogLine, Run

log = logging.getLogger(__name__)

FRAME_EVERY = 0.1  # seconds: less than the engine's 0.2, so that each of its blocks goes out as it comes
FLUSH_EVERY = 1.0
MAX_LINE = 20_000  # characters of one console line
FRAME_LINES = 500  # that a live frame carries: of a flood, the newest
KEPT_LINES = 50_000  # of a run's console; a flood pushes the oldest out


class Recorder:
    """Feed it events, call `tick` often and `close` at the end. Raises Fenced once the run is another's."""

    def __init__(self, run: Run) -> None:
        self.run_id, self.fence = run.pk, run.fence
        self.lines_before = LogLine.objects.filter(run=run).aggregate(last=Max("n"))["last"] or 0
        self.line = self.lines_before  # number of the last one, stored or not
        self.metrics: dict[str, Any] = {s.name: metric_store.summary(s) for s in run.series.all()}
        self.started = run.status == Run.Status.RUNNING
        self.cursor = run.live_cursor
        self.frame: dict[str, Any] = {}
        self.points: dict[str, list[Points]] = defaultdict(list)
        self.lines: list[LogLine] = []
        self.files: list[Checkpoint] = []
        self.notes: list[str] = []  # for the run's history
        self.values: dict[str, Any] = {}  # columns of the run's row
        self.said: list[Event] = []  # all that is not in the database yet, as it came
        self.journal = Journal(runspec.attempt_folder(run))
        self.framed = self.flushed = time.monotonic()
        self.urgent = False

    # --- In ---------------------------------------------------------------------------------------------
    def feed(self, event: Event) -> None:
        self.said.append(event)
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
            case Resumed():
                self._resumed(event)
            case _:
                self.said.pop()  # a sign of life, or how it ended: that is the task's to say

    def _resumed(self, event: Resumed) -> None:
        text = f"Goes on from step {event.step}"
        self.notes.append(f"{text}, exactly." if event.exact else f"{text}, not exactly: {event.why}.")
        if not event.exact:
            self.values["inexact"] = event.why
        self.urgent = True

    def _metrics(self, event: Metrics) -> None:
        frames = self.frame.setdefault("points", {})
        for name, values in event.values.items():
            block = metric_store.points(event.steps, values, event.wall)
            self.points[name].append(block)
            frame = frames.setdefault(name, {"s": [], "v": [], "w": []})
            for key, part in block.lists().items():
                frame[key] += part
            if marks := odd.marks(block.step, block.value):
                frame["o"] = frame.get("o", []) + marks

    def _line(self, event: Log) -> None:
        self.line = number = self.line + 1
        text = event.text.replace("\x00", "")[:MAX_LINE]  # PostgreSQL takes no NUL
        line = LogLine(run_id=self.run_id, n=number, wall=event.wall, level=event.level, text=text)
        self.lines.append(line)
        shown = {"n": number, "wall": event.wall, "level": event.level, "text": text}
        lines = self.frame.setdefault("log", [])
        lines.append(shown)
        del lines[:-FRAME_LINES]

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

    def close(self, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Write the rest. Waits for a database that is away; False, with a journal, when told to give up."""
        while not self.flush():
            if give_up():
                return False
            time.sleep(1.0)
        return True

    def _publish(self) -> None:
        if self.frame:
            self.framed = time.monotonic()
            frame, self.frame = self.frame, {}
            self.cursor = stream.publish(self.run_id, frame) or self.cursor

    def flush(self) -> bool:
        """Everything so far into the database, in one transaction. False: it is away, all is kept."""
        self._publish()  # so that the cursor stands behind every point that is written now
        self.flushed = time.monotonic()
        if not (self.said or self.journal):
            return True
        try:
            if self.journal:
                self._catch_up()
            self._store()
        except AWAY as error:
            log.warning("Run %s: the database is away (%s); keeping everything.", self.run_id, error)
            let_go()
            self._keep()
            return False
        return True

    def _store(self) -> None:
        with transaction.atomic():
            metrics = self._write({name: metric_store.join(blocks) for name, blocks in self.points.items()})
        self.metrics = metrics
        self.lines_before += len(self.lines)
        self._forget()

    def _forget(self) -> None:
        """What is written, or in the journal."""
        self.urgent = False
        self.points.clear()
        self.said, self.lines, self.files, self.notes, self.values = [], [], [], [], {}

    def _keep(self) -> None:
        """Into the journal; where the disk is full as well, in memory."""
        try:
            self.journal.append(self.said)
        except OSError as error:
            log.warning("Run %s: the journal cannot be written (%s).", self.run_id, error)
            return
        self._forget()

    def _catch_up(self) -> None:
        """The journal first, for it is older. Its frames went out when they came."""
        newer, frame, self.frame = self.said, self.frame, {}
        self._forget()
        self.line = self.lines_before
        try:
            for block in self.journal.blocks():
                for event in block:
                    self.feed(event)
                self._store()
            self.journal.drop()
        finally:
            self._forget()
            for event in newer:
                self.feed(event)
            self.frame = frame

    def _write(self, new: dict[str, Points]) -> dict[str, Any]:
        changed = metric_store.append(self.run_id, self.fence, new)
        metrics = self.metrics | {name: metric_store.summary(series) for name, series in changed.items()}
        values = self.values | {"metrics": metrics, "live_cursor": self.cursor}
        if any(name in changed for name in measurements.SCORE_SERIES):
            values["accuracy"] = measurements.best_validation(metrics)
        if not lifecycle.write(self.run_id, self.fence, **values):
            raise Fenced(f"attempt {self.fence} of run {self.run_id} may not write any more")
        if not self.started and any(measurements.of_training(name) for name in new):
            lifecycle.running(self.run_id, self.fence)
            transaction.on_commit(self._has_started)
        self._write_lines()
        for event in self.files:
            self._file(event)
        for text in self.notes:
            lifecycle.note(self.run_id, self.fence, text)
        return metrics

    def _write_lines(self) -> None:
        LogLine.objects.bulk_create(self.lines, batch_size=500)
        last = self.lines_before + len(self.lines)
        if last // KEPT_LINES > self.lines_before // KEPT_LINES:  # now and then, not with every line
            LogLine.objects.filter(run_id=self.run_id, n__lte=last - KEPT_LINES).delete()

    def _has_started(self) -> None:
        self.started = True

    def _file(self, event: Checkpoint) -> None:
        values = {"kind": event.kind, "sha256": event.sha256, "bytes": event.bytes, "step": event.step}
        # The attempt that wrote it: its folder says so, also where a later attempt read it in a journal.
        values["fence"] = int(Path(event.path).parent.name)
        Artifact.objects.update_or_create(run_id=self.run_id, path=_below_data(event.path), defaults=values)
        if event.kind == "resume":
            transaction.on_commit(lambda: checkpoints.forget_old(self.run_id, self.fence))


def _below_data(path: str) -> str:
    return str(Path(path).absolute().relative_to(Path(settings.KDWEB_DATA).absolute()))


def adopt(run: Run) -> None:
    """Reads in what earlier attempts left in a journal: their workers died while the database was away."""
    for journal in sorted(run.folder.glob("*/journal.jsonl")):
        if journal.parent == runspec.attempt_folder(run):
            continue
        record = Recorder(run)
        record.started = True  # that attempt's training, not this one's
        record.journal = Journal(journal.parent)
        record.close()
