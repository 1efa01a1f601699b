"""A child at work: what it says is fed on, the lease is kept, and the word to stop reaches it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from django.conf import settings

from experiments.database import AWAY, let_go
from experiments.lifecycle import RENEW_EVERY
from experiments.metric_store import Fenced
from worker.distill.events import Event, Failed, Log, Metrics
from worker.presence import draining
from worker.supervisor import Engine, Spare

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between two looks at what people want
SPARE = Spare()  # of this pool process

Order = Literal["go on", "stop", "kill"]


class Watch:
    """Keeps the lease and asks whether to go on. A database that is away is no reason to stop."""

    def __init__(self, worker: str, renew: Callable[[], bool], leave_wanted: Callable[[], bool]) -> None:
        self.worker, self.renew, self.leave_wanted = worker, renew, leave_wanted
        self.looked = self.renewed = time.monotonic()
        self.drained = False
        self.hung = False

    def __call__(self) -> Order:
        now = time.monotonic()
        if now - self.looked < LOOK_EVERY:
            return "go on"
        self.looked = now
        if draining(self.worker):
            self.drained = True
            return "stop"
        try:
            if now - self.renewed >= RENEW_EVERY:
                if not self.renew():
                    return "kill"
                self.renewed = now
            return "stop" if self.leave_wanted() else "go on"
        except AWAY as error:
            log.warning("The database is away (%s); the work goes on.", error)
            let_go()
            return "go on"


def drive(engine: Engine, feed: Callable[[Event], None], tick: Callable[[], None], watch: Watch) -> None:
    """Until the child has ended. Raises Fenced when the work became somebody else's."""
    while not engine.done:
        for event in engine.read(0.1):
            feed(event)
            if isinstance(event, Metrics):
                SPARE.refill()  # only now: importing torch beside the start would slow both
        tick()
        match watch():
            case "stop":
                engine.stop()
            case "kill":
                raise Fenced("the lease is another's")
        if time.monotonic() - engine.heard > settings.KDWEB_HANG_SECONDS:
            end_hung(engine, feed)
            watch.hung = True


def end_hung(engine: Engine, feed: Callable[[Event], None]) -> None:
    """The stacks of all its threads into the console, then the end."""
    silence = f"no sign of life for {settings.KDWEB_HANG_SECONDS} s"
    log.warning("The engine gives %s: it is asked where it is, and ended.", silence)
    feed(Log(level="error", text=f"There is {silence}. Where the engine stands:"))
    for event in engine.dump():
        feed(event)
    engine.kill(silence)


def insist(write: Callable[[], bool], worker: str = "") -> bool:
    """Write the outcome, waiting for a database that is away; False when the worker may not wait longer.

    Then the lease runs out, and the next attempt finds the last checkpoint and little to do.
    """
    while True:
        try:
            return write()
        except AWAY as error:
            log.warning("The database is away (%s); trying again.", error)
            let_go()
        if worker and draining(worker):
            return False
        time.sleep(1.0)


def in_full(failed: Failed) -> str:
    """field, value, what is wrong and what to do, each once."""
    text = failed.message
    if failed.field and failed.field not in text:
        text = f"{failed.field}: {text}"
    if failed.fix and failed.fix not in text:
        text = f"{text} {failed.fix}"
    return text
