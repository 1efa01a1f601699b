"""One attempt at one run: claim, drive the engine, record, and say how it ended."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable

from django.conf import settings

from experiments import checkpoints, lifecycle, publish, recorder, runspec
from experiments.checkpoints import CheckpointsGone
from experiments.database import AWAY, let_go
from experiments.metric_store import Fenced
from experiments.models import Attempt, Run, Worker
from experiments.recorder import Recorder
from worker import fitness
from worker.distill.events import Event, Failed, Log, Result, Stopped
from worker.driving import SPARE, Watch, drive, in_full, insist
from worker.gauge import Gauge
from worker.presence import draining, usage
from worker.supervisor import Engine

log = logging.getLogger(__name__)


def work(worker: str) -> None:
    """What a message is for: the run whose turn it is."""
    if draining(worker) or not fitness.may_take(worker):
        return  # the sweep sends it again, to another worker
    device = Worker.objects.filter(name=worker).values_list("device", flat=True).first() or ""
    run = lifecycle.claim(worker, device)
    if run is None:
        return
    log.info("Attempt %d at run %d begins.", run.fence, run.pk)
    try:
        publish.heartbeat(worker, run=run)
        attempt(run, worker)
    except Fenced as error:
        log.warning("Run %d: %s; left alone.", run.pk, error)
        clear_away(run)
    except CheckpointsGone as gone:
        reason = str(gone)
        insist(lambda: lifecycle.fail(run.pk, run.fence, reason), worker)
    except AWAY as error:
        log.warning("Run %d: the database is away (%s); handed back.", run.pk, error)
        let_go()
        insist(lambda: lifecycle.stopped(run.pk, run.fence), worker)
    except Exception as error:
        log.exception("Run %d", run.pk)
        reason = f"The worker met an error of its own ({type(error).__name__}: {error}). Its log says more."
        insist(lambda: lifecycle.crashed(run.pk, run.fence, reason), worker)
    finally:
        insist(lambda: publish.heartbeat(worker, run=None), worker)


def attempt(run: Run, worker: str) -> None:
    recorder.adopt(run)
    checkpoints.go_back(run)
    record = Recorder(run)
    watch = Watch(worker, lambda: keep(run, worker), lambda: lifecycle.leave_wanted(run.pk))
    engine = SPARE.take("train", runspec.build(run).model_dump())
    try:
        gauge = Gauge(run, engine.process.pid, settings.KDWEB_DATA, record.feed)
        drive(engine, record.feed, _both(gauge.tick, record.tick), watch)
        if engine.ending is not None:
            _remember(record, engine.ending)
        if record.close(give_up=lambda: draining(worker)):
            insist(lambda: conclude(run, engine, watch, worker), worker)
    finally:
        engine.close()
        if not draining(worker):
            SPARE.refill()


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def tick() -> None:
        first()
        second()

    return tick


def keep(run: Run, worker: str) -> bool:
    publish.heartbeat(worker, run=run, usage=usage())
    return lifecycle.renew(run.pk, run.fence)


def _remember(record: Recorder, ending: Event) -> None:
    """The traceback belongs into the console; the reason alone is for people."""
    if isinstance(ending, Failed):
        for line in [*ending.traceback.splitlines(), in_full(ending)]:
            record.feed(Log(level="error", text=line))


def conclude(run: Run, engine: Engine, watch: Watch, worker: str) -> bool:
    """How the engine ended becomes how the run ended, or what happens next."""
    match engine.ending:
        case Result(data=data):
            return lifecycle.succeed(run.pk, run.fence, data)
        case Failed(code="disk_full") as failed:
            return lifecycle.disk_full(run.pk, run.fence, in_full(failed))
        case Failed(code="device_lost") as failed:
            fitness.leave_rotation(worker, in_full(failed))
            return lifecycle.crashed(run.pk, run.fence, in_full(failed))
        case Failed() as failed:
            return lifecycle.fail(run.pk, run.fence, in_full(failed))
        case Stopped():
            return lifecycle.stopped(run.pk, run.fence)
    if watch.hung:
        return lifecycle.crashed(run.pk, run.fence, engine.reason(), Attempt.Outcome.HUNG)
    if engine.kill_at is not None:  # it was told to stop, and did not manage to say so
        return lifecycle.stopped(run.pk, run.fence)
    return lifecycle.crashed(run.pk, run.fence, engine.reason())


def clear_away(run: Run) -> None:
    """What a fenced attempt left: all of it where the run was deleted, its folder where the run has ended."""
    current = Run.objects.filter(pk=run.pk).first()
    if current is None:
        shutil.rmtree(run.folder, ignore_errors=True)
    elif current.ended:
        checkpoints.remove_folders(run.pk, current.fence)
