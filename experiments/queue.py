"""The only file that speaks to Celery: by task name, with ids alone, after the commit.

A message is a nudge. The database says what is to be done, so a lost message costs time and a doubled
one nothing: while the broker is away work is saved all the same, and the sweep sends what is missing.
"""

from __future__ import annotations

import logging
import time

import redis
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from kdweb.celery import app

from .models import ArchitectureProfile, Dataset, Upload

log = logging.getLogger(__name__)

RUNS = "cpu"  # every run worker listens to it; the run takes the best device of the worker that claims it
QUIET_SECONDS = 2.0  # how long nobody asks a broker that did not answer: twenty runs wait for it once
CONTROL = "control"  # short work, so that nobody waits behind a training of hours

_quiet_until = 0.0


def send_run(run_id: int) -> None:
    """A worker takes the run whose turn it is; this one's number is for its log."""
    _after_commit("worker.tasks.run", run_id, RUNS)


def send_dataset(dataset: Dataset) -> None:
    _after_commit("worker.tasks.prepare_dataset", dataset.pk, CONTROL)


def send_upload(upload: Upload) -> None:
    _after_commit("worker.tasks.check_upload", str(upload.pk), CONTROL)


def send_profile(profile: ArchitectureProfile) -> None:
    _after_commit("worker.tasks.profile", profile.pk, CONTROL)


def _after_commit(task: str, key: int | str, queue: str) -> None:
    transaction.on_commit(lambda: _send(task, key, queue))


def _send(task: str, key: int | str, queue: str) -> None:
    global _quiet_until
    if time.monotonic() < _quiet_until:
        return
    try:
        app.send_task(task, args=[key], queue=queue, ignore_result=True, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        _quiet_until = time.monotonic() + QUIET_SECONDS
        log.warning("The broker is away (%s): %s %s waits for the sweep.", error, task, key)


def waiting_messages(queue: str) -> int | None:
    """How many messages the broker holds for `queue`; None while it is away. Never waits long for it."""
    try:
        with redis.Redis.from_url(
            settings.KDWEB_REDIS_URL,
            socket_timeout=2,
            socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            return int(client.llen(queue))
    except (RedisError, OSError):
        return None
