"""One attempt at one run: claim, drive the engine, record, and say how it ended."""

from __future__ import annotations

import logging

from experiments import lifecycle, publish, recorder, runspec
from experiments.metric_store import Fenced
from experiments.models import Run, Worker
from experiments.recorder import Recorder
from worker.distill.events import Event, Failed, Log, Result, Stopped
from worker.driving import SPARE, Watch, drive, in_full, insist
from worker.presence import draining, usage
from worker.supervisor import Engine

log = logging.getLogger(__name__)


def work(run_id: int, worker: str) -> None:
    """What a message is for: the run it names, or the best that waits."""
    if draining(worker):
        return  # the sweep sends it again, to another worker
    device = Worker.objects.filter(name=worker).values_list("device", flat=True).first() or ""
    run = lifecycle.claim(run_id, worker, device)
    if run is None:
        return
    log.info("Attempt %d at run %d begins.", run.fence, run.pk)
    publish.heartbeat(worker, run=run)
    try:
        attempt(run, worker)
    except Fenced as error:
        log.warning("Run %d: %s; left alone.", run.pk, error)
    except Exception as error:
        log.exception("Run %d", run.pk)
        reason = f"The worker met an error of its own ({type(error).__name__}: {error}). Its log says more."
        insist(lambda: lifecycle.fail(run.pk, run.fence, reason))
    finally:
        publish.heartbeat(worker, run=None)


def attempt(run: Run, worker: str) -> None:
    recorder.go_back(run)
    record = Recorder(run)
    watch = Watch(worker, lambda: keep(run, worker), lambda: lifecycle.stop_wanted(run.pk))
    engine = SPARE.take("train", runspec.build(run).model_dump())
    try:
        drive(engine, record.feed, record.tick, watch)
        if engine.ending is not None:
            _remember(record, engine.ending)
        record.close()
        insist(lambda: conclude(run, engine, watch))
    finally:
        engine.close()
        if not draining(worker):
            SPARE.refill()


def keep(run: Run, worker: str) -> bool:
    publish.heartbeat(worker, run=run, usage=usage())
    return lifecycle.renew(run.pk, run.fence)


def _remember(record: Recorder, ending: Event) -> None:
    """The traceback belongs into the console; the reason alone is for people."""
    if isinstance(ending, Failed):
        for line in [*ending.traceback.splitlines(), in_full(ending)]:
            record.feed(Log(level="error", text=line))


def conclude(run: Run, engine: Engine, watch: Watch) -> bool:
    """How the engine ended becomes how the run ended."""
    match engine.ending:
        case Result(data=data):
            return lifecycle.succeed(run.pk, run.fence, data)
        case Failed() as failed:
            return lifecycle.fail(run.pk, run.fence, in_full(failed))
        case Stopped():
            return lifecycle.stopped(run.pk, run.fence)
    if engine.kill_at is not None:  # it was told to stop, and did not manage to say so
        return lifecycle.stopped(run.pk, run.fence)
    return lifecycle.fail(run.pk, run.fence, engine.reason())
