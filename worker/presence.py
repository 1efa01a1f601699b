"""That a worker is there: what it offers when it starts, a heartbeat while it lives, the word that it drains.

Everything here runs in the worker's main process, on Celery's own timer: a thread could hold a lock at the
very moment Celery forks a new pool process. torch is never imported: the catalogue comes from a child.
"""

from __future__ import annotations

import logging
import socket
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from celery import bootsteps, signals
from django.conf import settings
from django.db import connections

from experiments import lifecycle, publish, queue, sweep
from experiments.lifecycle import RENEW_EVERY
from kdweb import paths
from kdweb.celery import app
from worker import fitness, machine
from worker.distill.events import Failed, Result
from worker.supervisor import CATALOGUE, Engine

log = logging.getLogger(__name__)

RUN_QUEUES = {"cpu", "gpu"}


@cache
def queues() -> list[str]:
    """What this worker was started for; while it is drained it listens to less."""
    return sorted(app.amqp.queues.consume_from)


def takes_runs() -> bool:
    return queues() != [queue.CONTROL]


def usage() -> dict[str, Any]:
    """Of the machine: see `machine.usage`."""
    return machine.usage(settings.KDWEB_DATA)


# --- Draining ---------------------------------------------------------------------------------------------
def _drain_file(worker: str) -> Path:
    return paths.make_private(paths.runtime_dir(settings.KDWEB_HOME)) / f"drain-{worker}"


def draining(worker: str) -> bool:
    """Whether the worker shuts down; asked by its pool processes, which get no signal."""
    return _drain_file(worker).exists()


@signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
def _drain(sender: str, **_: Any) -> None:
    _drain_file(sender).touch()


# --- Presence ---------------------------------------------------------------------------------------------
class Announcement:
    """Asks a child for the catalogue and publishes it when it comes."""

    def __init__(self) -> None:
        self.child: Engine | None = None
        self.asked = False

    @property
    def over(self) -> bool:
        return self.asked and self.child is None

    def look(self, worker: str) -> None:
        if not self.asked:
            self.child, self.asked = Engine([*CATALOGUE, publish.known()]), True
        if self.child is None:
            return
        if not self.child.done:
            self.child.read(0)
            return
        child, self.child = self.child, None
        match child.ending:
            case Result(data=catalogue):
                if "methods" in catalogue:
                    publish.publish(catalogue)
                    log.info("Published %d methods.", len(catalogue["methods"]))
                publish.announce(worker, ",".join(queues()), socket.gethostname(), catalogue)
            case Failed(message=message, traceback=traceback):
                log.error("There is no catalogue: %s\n%s", message, traceback)
            case _:
                log.error("There is no catalogue. %s", child.reason())
        child.close()


class Presence(bootsteps.StartStopStep):  # type: ignore[misc]
    """Begins anew with every connection to the broker: Celery clears the timer when it loses one."""

    requires = {"celery.worker.consumer.tasks:Tasks"}
    announcement: ClassVar[Announcement]

    def start(self, consumer: Any) -> None:
        name = consumer.hostname
        every = consumer.timer.call_repeatedly
        self.timers = [every(sweep.EVERY, _safely, (sweep.sweep, name))]
        if not takes_runs():
            return
        if not hasattr(Presence, "announcement"):
            Presence.announcement = Announcement()
        self.timers += [
            every(0.5, _safely, (lambda worker: Presence.announcement.look(worker), name)),
            every(RENEW_EVERY, _safely, (lambda worker: _beat(worker, consumer), name)),
        ]

    def stop(self, consumer: Any) -> None:
        for timer in getattr(self, "timers", ()):
            timer.cancel()


def _beat(worker: str, consumer: Any) -> None:
    """It lives; and it listens for runs, unless it may not take one: then others shall hear of them."""
    if not publish.heartbeat(worker, usage=usage()) and Presence.announcement.over:
        Presence.announcement = Announcement()  # its row was removed while it slept
    wanted = fitness.may_take(worker)  # asked here too: who does not listen is never told that it may again
    for name in RUN_QUEUES & set(queues()):
        listening = name in consumer.app.amqp.queues.consume_from
        if listening and not wanted:
            consumer.cancel_task_queue(name)
        elif wanted and not listening:
            consumer.add_task_queue(name)


def _safely(act: Any, worker: str) -> None:
    """Whatever happens, the worker goes on; and no connection is open when Celery forks."""
    try:
        act(worker)
    except Exception as error:
        log.warning("Heartbeat of %s: %s", worker, error)
    finally:
        connections.close_all()


@signals.worker_init.connect(weak=False)  # type: ignore[untyped-decorator]
def _begin(sender: Any, **_: Any) -> None:
    _drain_file(sender.hostname).unlink(missing_ok=True)
    _safely(lifecycle.forsake, sender.hostname)


app.steps["consumer"].add(Presence)
