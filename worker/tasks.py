"""Celery's edge. A message names a row, the row says what is to be done; tasks return nothing."""

from __future__ import annotations

import logging
from typing import Any

from celery import shared_task, signals

from experiments import jobs
from experiments.models import ArchitectureProfile, Dataset, Upload
from worker import presence, runs, short
from worker.driving import SPARE

log = logging.getLogger(__name__)


@shared_task(name="worker.tasks.run", bind=True)  # type: ignore[untyped-decorator]
def run(task: Any, run_id: int) -> None:
    """Whichever run's turn it is: the one the message names may have been taken, ended or deleted since."""
    log.info("Asked for work, for run %s.", run_id)
    runs.work(task.request.hostname)


@shared_task(name="worker.tasks.prepare_dataset", bind=True)  # type: ignore[untyped-decorator]
def prepare_dataset(task: Any, key: int) -> None:
    worker = task.request.hostname
    if not presence.draining(worker) and (job := jobs.take(Dataset, key)):
        short.perform(job, lambda held: short.prepare_dataset(held, worker), short.refuse_dataset)


@shared_task(name="worker.tasks.check_upload", bind=True)  # type: ignore[untyped-decorator]
def check_upload(task: Any, key: str) -> None:
    worker = task.request.hostname
    if not presence.draining(worker) and (job := jobs.take(Upload, key)):
        short.perform(job, lambda held: short.check_upload(held, worker), short.refuse_upload)


@shared_task(name="worker.tasks.profile", bind=True)  # type: ignore[untyped-decorator]
def profile(task: Any, key: int) -> None:
    worker = task.request.hostname
    if not presence.draining(worker) and (job := jobs.take(ArchitectureProfile, key)):
        short.perform(job, lambda held: short.profile(held, worker), short.refuse_profile)


@signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
def warm_up(**_: Any) -> None:
    """A run worker has its spare from the start; the control worker gets one with its first job."""
    if presence.takes_runs():
        SPARE.refill()


@signals.worker_process_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
def cool_down(**_: Any) -> None:
    SPARE.close()
