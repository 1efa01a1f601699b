"""Whether the parts work: for machines as JSON, for people in words with what to do.

Every check runs in a thread of its own and gets two seconds. So a broker or a database that is dead, or
worse, silent, is named as such while the others still answer; and however often somebody asks, at most one
thread hangs on each.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, connections
from django.db.models.functions import Now
from django.utils.functional import Promise
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop, ngettext_lazy
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from . import lifecycle, schema, sweep
from .models import Pulse, Run, Worker

PATIENCE = 2.0  # seconds for all checks together, which run beside each other
SWEEP_LATE = timedelta(seconds=30)
IDLE_LATE = timedelta(seconds=60)  # a run that could start waits so long beside an idle worker
ROOM = 1 << 30  # bytes; with less, checkpoints will not fit for long and runs pause
FINE, WARNING, BROKEN = "fine", "warning", "broken"


@dataclass(frozen=True)
class Check:
    """What was found of one part. `facts` are for machines: numbers, no names and no secrets.

    The words are lazy: a check runs in a thread of its own and is read in another, in its reader's language.
    """

    name: str
    state: str
    text: str | Promise
    fix: str | Promise = ""
    facts: dict[str, Any] = field(default_factory=dict)


# --- The parts --------------------------------------------------------------------------------------------
def database() -> Check:
    began = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    took = 1000 * (time.monotonic() - began)
    return Check("database", FINE, _answers(took), facts={"milliseconds": round(took, 1)})


def _answers(milliseconds: float) -> Promise:
    return format_lazy(_("Answers in {ms} ms."), ms=f"{milliseconds:.1f}")


def broker() -> Check:
    began = time.monotonic()
    client = redis.Redis.from_url(
        settings.KDWEB_REDIS_URL, socket_timeout=1.5, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
    )
    with client:
        client.ping()
    took = 1000 * (time.monotonic() - began)
    return Check("broker", FINE, _answers(took), facts={"milliseconds": round(took, 1)})


def sweeping() -> Check:
    """The sweep finds dead workers and nudges what waits: without it nothing goes on by itself."""
    pulse = Pulse.objects.filter(name=sweep.NAME).annotate(now=Now()).first()
    fix = _(
        "Every worker and every web process sweeps: start one. If some are alive, look into their logs: the "
        "database may be read-only or its disk full."
    )
    if pulse is None:
        return Check("sweep", BROKEN, _("No sweep has ever happened."), fix, {"seconds": None})
    age = pulse.now - pulse.at
    seconds = max(0.0, age.total_seconds())
    facts = {"seconds": round(seconds, 1)}
    if abs(age) > SWEEP_LATE:
        text = format_lazy(
            _("No sweep for {time}: no worker and no web process sweeps."), time=_long(seconds)
        )
        return Check("sweep", BROKEN, text, fix, facts)
    text = format_lazy(_("The last one was {seconds} s ago."), seconds=round(seconds))
    return Check("sweep", FINE, text, facts=facts)


def workers() -> Check:
    alive, taking = Worker.objects.alive(), Worker.objects.taking().count()
    facts = {
        "alive": alive.count(),
        "taking": taking,
        "drained": alive.filter(drain=True).count(),
        "troubled": alive.exclude(trouble="").count(),
    }
    if not facts["alive"]:
        fix = _("Start one: `manage.py up`, or the worker container on a GPU machine.")
        return Check("workers", BROKEN, _("No worker is alive: nothing trains."), fix, facts)
    said = ngettext_lazy(
        "{alive} alive, {n} of them takes runs.", "{alive} alive, {n} of them take runs.", taking
    )
    text = format_lazy(said, alive=facts["alive"], n=taking)
    if facts["troubled"]:
        text = format_lazy("{} {}", text, format_lazy(_("{n} out of rotation."), n=facts["troubled"]))
        return Check("workers", WARNING, text, _("The Workers page says why."), facts)
    if not taking:
        return Check("workers", WARNING, text, _("All are drained: undrain one on the Workers page."), facts)
    return Check("workers", FINE, text, facts=facts)


def queue() -> Check:
    waits = Run.objects.filter(status=Run.Status.QUEUED).count()
    could = lifecycle.startable().filter(queued__isnull=False).annotate(now=Now()).order_by("queued").first()
    oldest = could.now - could.queued if could else timedelta()
    facts = {"queued": waits, "oldest_startable_seconds": round(max(0.0, oldest.total_seconds()), 1)}
    if not waits:
        return Check("queue", FINE, _("Nothing waits."), facts=facts)
    text = format_lazy(ngettext_lazy("{n} run waits.", "{n} runs wait.", waits), n=waits)
    if could:
        text = format_lazy(
            ngettext_lazy(
                "{n} run waits, the oldest that could start for {time}.",
                "{n} runs wait, the oldest that could start for {time}.",
                waits,
            ),
            n=waits,
            time=_long(oldest.total_seconds()),
        )
    if oldest > IDLE_LATE and Worker.objects.taking().filter(run=None).exists():
        fix = _("A worker is idle and does not take it: look into its log, and whether the broker answers.")
        return Check("queue", WARNING, text, fix, facts)
    return Check("queue", FINE, text, facts=facts)


def disk() -> Check:
    free = shutil.disk_usage(settings.KDWEB_DATA).free
    facts = {"free": free, "floor": ROOM}
    text = format_lazy(_("{size} GB free in the data folder."), size=f"{free / 1e9:.1f}")
    if free < ROOM:
        fix = _(
            "Delete runs or datasets, or make the disk larger. Runs that it paused go on by themselves then."
        )
        return Check("disk", BROKEN, text, fix, facts)
    return Check("disk", FINE, text, facts=facts)


def migrations() -> Check:
    missing, newer = (len(names) for names in schema.misfit())
    facts = {"missing": missing, "newer": newer}
    if missing:
        said = ngettext_lazy(
            "The database lacks {n} migration of this code.",
            "The database lacks {n} migrations of this code.",
            missing,
        )
        fix = _("Run `manage.py prepare`.")
        return Check("migrations", BROKEN, format_lazy(said, n=missing), fix, facts)
    if newer:
        text = _("The database is newer than this web process's code.")
        return Check("migrations", BROKEN, text, _("Update it and start it again."), facts)
    return Check("migrations", FINE, _("The database is as this code expects it."), facts=facts)


def _long(seconds: float) -> Promise:
    amount = max(0, round(seconds))
    for size, one, many in (
        (86400, gettext_noop("{n} day"), gettext_noop("{n} days")),
        (3600, gettext_noop("{n} hour"), gettext_noop("{n} hours")),
        (60, gettext_noop("{n} minute"), gettext_noop("{n} minutes")),
    ):
        if amount >= size:
            n = amount // size
            return format_lazy(_(one if n == 1 else many), n=n)
    return format_lazy(_("{n} s"), n=amount)


# --- Asking them ------------------------------------------------------------------------------------------
CHECKS: dict[str, Callable[[], Check]] = {
    "database": database,
    "broker": broker,
    "sweep": sweeping,
    "workers": workers,
    "queue": queue,
    "disk": disk,
    "migrations": migrations,
}
FIXES = {
    "broker": _("Start Redis. Until then runs go on and what is new waits; nothing is lost."),
    "disk": _("Look whether the data folder is there and may be read."),
}
DATABASE_FIX = _("Start the database. Until then runs go on and keep what they measure on their own disk.")

_pool = ThreadPoolExecutor(max_workers=len(CHECKS), thread_name_prefix="health")
_pending: dict[str, Future[Check]] = {}
_lock = threading.Lock()


def ask() -> list[Check]:
    """All checks, in PATIENCE seconds at most. Never raises."""
    asked = {name: _asked(name) for name in CHECKS}
    ends = time.monotonic() + PATIENCE
    return [_answer(name, future, ends) for name, future in asked.items()]


def _asked(name: str) -> Future[Check]:
    """A new question, or the one that is still without an answer."""
    with _lock:
        pending = _pending.get(name)
        if pending is None or pending.done():
            pending = _pending[name] = _pool.submit(_look, CHECKS[name])
        return pending


def _look(check: Callable[[], Check]) -> Check:
    try:
        return check()
    finally:
        connections.close_all()  # of this thread


def _answer(name: str, future: Future[Check], ends: float) -> Check:
    fix = FIXES.get(name, DATABASE_FIX)
    try:
        return future.result(max(0.0, ends - time.monotonic()))
    except TooLate:
        text = format_lazy(_("No answer within {n} s."), n=round(PATIENCE))
        return Check(name, BROKEN, text, fix)
    except (DatabaseError, InterfaceError, RedisError, OSError) as error:
        # The error's own words may hold an address or a user's name.
        text = format_lazy(_("Does not answer ({error})."), error=type(error).__name__)
        return Check(name, BROKEN, text, fix)
    except Exception as error:
        text = format_lazy(_("The check itself failed ({error})."), error=type(error).__name__)
        return Check(name, BROKEN, text, _("Look at the log."))
