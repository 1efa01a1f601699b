"""Clocks that jump, differ, or stand in other zones. The database's counts, and it is not trusted far."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models import F
from django.db.models.functions import Now

from experiments import lifecycle, sweep
from experiments.models import Attempt, Pulse, Run, Worker

from .processes import slowly
from .site import Site
from .workers import WorkerProcess

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

EPOCHS = 30
HOUR = timedelta(hours=1)
SWEEP = timedelta(seconds=sweep.EVERY)


def worker_of(site: Site) -> WorkerProcess:
    worker = site.processes[0]
    assert isinstance(worker, WorkerProcess)
    return worker


def jump(run: Run, by: timedelta) -> None:
    """What the database's clock jumping by `-by` makes of all that was written before."""
    Run.objects.filter(pk=run.pk).update(
        queued=F("queued") + by, started=F("started") + by, lease_expires=F("lease_expires") + by
    )
    Attempt.objects.filter(run=run).update(started=F("started") + by)
    Worker.objects.update(heartbeat=F("heartbeat") + by)
    Pulse.objects.update(at=F("at") + by)


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["back", "forward"])
def test_f39_the_database_s_clock_jumps(site: Site, by: timedelta) -> None:
    """the clock jumps by an hour, back or forward, under a living run → nobody else gets the run, sweeps and
    heartbeats go on, no duration is negative. simulated: the times in the rows are moved instead."""
    run = site.start_run(f"jump {by}", epochs=EPOCHS)
    site.running(run)
    with slowly(worker_of(site).engine()):
        jump(run, by)
        end = time.monotonic() + lifecycle.SUSPECTED.total_seconds() + 6
        while time.monotonic() < end:
            assert lifecycle.claim("thief@test") is None
            now = Run.objects.get(pk=run.pk)
            assert (now.status, now.fence) == ("running", 1)
            assert now.took is not None
            assert now.took >= timedelta()
            assert all(attempt.took >= timedelta() for attempt in now.attempts.all())
            time.sleep(0.2)
        assert not now.lost
        assert site.wait_for(Worker.objects.alive().filter(name="cpu0@test").first, 10)
        recent = Pulse.objects.filter(at__gt=Now() - 2 * SWEEP, at__lte=Now())
        site.wait_for(recent.exists, 20)
    site.ended(run)
    assert site.outcomes(run) == ["succeeded"]
    assert all(attempt.took >= timedelta() for attempt in run.attempts.all())
    site.assert_same(run)


def test_f39_a_suspicion_from_a_clock_that_was_set_back(site: Site) -> None:
    """a lease that ends in an hour, of a worker that is gone, after the clock was set back → it is suspected
    all the same, and another worker has the run a minute later. simulated: lease and suspicion in the row."""
    run = site.draft("left behind", epochs=3)
    Run.objects.filter(pk=run.pk).update(
        status="running",
        fence=1,
        lease_owner="gone@test",
        lease_expires=Now() + HOUR,
        silent_since=Now() + HOUR,
        started=Now() + HOUR,
    )
    Attempt.objects.create(run=run, number=1, worker="gone@test", started=Now() + HOUR)
    site.ended(run, 90)
    assert site.outcomes(run) == ["lost", "succeeded"]
    assert run.attempts.get(number=1).took >= timedelta()
    site.assert_same(run)


def test_f39_every_machine_in_a_zone_of_its_own(make_site: Callable[..., Site]) -> None:
    """database and worker keep times of zones 25 hours apart, and the worker's summer time ends this very
    hour → the run is nobody else's, its duration is that of the clock on the wall."""
    site = make_site("postgresql")
    site.postgres.ask("ALTER SYSTEM SET timezone = 'Pacific/Kiritimati'")
    site.postgres.ask("SELECT pg_reload_conf()")
    worker = site.worker(TZ=summer_time_ends_now()).start()
    began = time.monotonic()
    run = site.start_run(epochs=EPOCHS)
    site.running(run)
    with slowly(worker.engine()):
        end = time.monotonic() + 12
        while time.monotonic() < end:
            assert lifecycle.claim("thief@test") is None
            assert not Run.objects.get(pk=run.pk).lost
            time.sleep(0.5)
    run = site.ended(run)
    assert site.outcomes(run) == ["succeeded"]
    assert run.took is not None
    assert timedelta(seconds=10) < run.took < timedelta(seconds=time.monotonic() - began + 5)
    site.assert_same(run)


def summer_time_ends_now() -> str:
    """A zone eleven hours west (POSIX) whose clocks are set back within the hour that runs now."""
    now = time.gmtime(time.time() - 36_000)  # by its summer time
    return f"XXX11YYY,J{(now.tm_yday + 200) % 365 + 1},J{min(now.tm_yday, 365)}/{now.tm_hour}"


def lost_on(page: str) -> bool:
    return 'data-status="lost"' in page


# --- Two clocks -------------------------------------------------------------------------------------------
SKEWED = """
import datetime, time

SKEW = {skew}
_time, _datetime = time.time, datetime.datetime


class Like(type(_datetime)):
    def __instancecheck__(cls, instance):
        return isinstance(instance, _datetime)


class Skewed(_datetime, metaclass=Like):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=SKEW)

    @classmethod
    def utcnow(cls):
        return _datetime.utcnow() + datetime.timedelta(seconds=SKEW)


time.time = lambda: _time() + SKEW
datetime.datetime = Skewed
"""
ASK = "from django.utils import timezone; print(timezone.now().timestamp())"


@pytest.mark.parametrize("minutes", [5, -5])
def test_f40_a_web_server_whose_clock_is_off(site: Site, tmp_path: Path, minutes: int) -> None:
    """the clock of the web's machine is five minutes off → the worker is shown alive, the run not as lost,
    health is fine, the web's own sweep takes nobody's run. simulated: Python's clocks in that process."""
    (tmp_path / "sitecustomize.py").write_text(SKEWED.format(skew=60 * minutes))
    path = {"PYTHONPATH": str(tmp_path)}
    theirs = float(site.manage("shell", "-v0", "-c", ASK, **path).split()[-1])
    assert abs(theirs - time.time() - 60 * minutes) < 60, "the clock is not off"
    web = site.web(**path).start()
    try:
        ann = web.client("ann")
        run = site.start_run(f"skewed by {minutes}", epochs=EPOCHS)
        site.running(run)
        with slowly(worker_of(site).engine()):
            end = time.monotonic() + lifecycle.SUSPECTED.total_seconds() + 3
            while time.monotonic() < end:
                for page in ("/", "/runs/", f"/runs/{run.pk}/"):
                    assert not lost_on(ann.get(page).text), page
                health = web.stranger().get("/health.json")
                assert health.json["checks"]["workers"]["state"] == "fine", health.text
                assert health.json["checks"]["sweep"]["state"] == "fine", health.text
                time.sleep(1)
        site.ended(run)
        assert site.outcomes(run) == ["succeeded"]
        site.assert_same(run)
    finally:
        web.close()
