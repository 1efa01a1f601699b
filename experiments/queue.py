"""The only file that speaks to Celery: by task name, with ids alone, after the commit.

A message is a nudge. The database says what is to be done, so a lost message costs time and a doubled
one nothing: while the broker is away work is saved all the same, and the sweep sends what is missing.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import transaction
from kombu.exceptions import ChannelError, OperationalError
from redis.exceptions import RedisError

from kdweb.celery import app

from .models import ArchitectureProfile, Dataset, Run, Upload

log = logging.getLogger(__name__)

RUNS = "cpu"  # every run worker listens to it; the run takes the best device of the worker that claims it
CONTROL = "control"  # short work, so that nobody waits behind a training of hours


def send_run(run: Run) -> None:
    _after_commit("worker.tasks.run", run.pk, RUNS)


def send_dataset(dataset: Dataset) -> None:
    _after_commit("worker.tasks.prepare_dataset", dataset.pk, CONTROL)


def send_upload(upload: Upload) -> None:
    _after_commit("worker.tasks.check_upload", str(upload.pk), CONTROL)


def send_profile(profile: ArchitectureProfile) -> None:
    _after_commit("worker.tasks.profile", profile.pk, CONTROL)


def _after_commit(task: str, key: int | str, queue: str) -> None:
    transaction.on_commit(lambda: _send(task, key, queue))


def _send(task: str, key: int | str, queue: str) -> None:
    try:
        app.send_task(task, args=[key], queue=queue, ignore_result=True, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("The broker is away (%s): %s %s waits for the sweep.", error, task, key)


def waiting_messages(queue: str) -> int | None:
    """How many messages the broker holds for `queue`; None while it is away."""
    try:
        with app.connection_for_write() as connection:
            # A queue without messages does not exist for Redis: that is no error here.
            declared: Any = connection.default_channel.queue_declare(queue, passive=True)
            return int(declared.message_count)
    except ChannelError:
        return 0
    except (OperationalError, RedisError, OSError):
        return None
