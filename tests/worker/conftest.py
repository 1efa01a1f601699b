"""A site of its own: a data folder, a SQLite file, a Redis, and one real Celery worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from experiments import queue
from experiments.models import Run, Worker
from worker.supervisor import ROOT


class Site:
    """Where the worker of these tests lives, and how to start and stop it."""

    def __init__(self, home: Path, redis_url: str) -> None:
        self.home, self.redis_url = home, redis_url
        self.worker: subprocess.Popen[bytes] | None = None
        self.log = home / "worker.log"

    def start(self) -> None:
        """One worker for runs and short work."""
        argv = [sys.executable, "-m", "celery", "-A", "kdweb", "worker", "-n", "cpu0@test", "-c", "1"]
        argv += ["-Q", "cpu,control", "--loglevel", "INFO"]
        env = os.environ | {
            "KDWEB_HOME": str(self.home),
            "KDWEB_REDIS_URL": self.redis_url,
            "KDWEB_PROCESS": "worker",
            "DJANGO_SETTINGS_MODULE": "kdweb.settings",
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("ab") as log:
            self.worker = subprocess.Popen(
                [*argv, "--without-mingle"], cwd=ROOT, env=env, stdout=log, stderr=log
            )

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.worker:
            self.worker.send_signal(number)
            self.worker.wait(timeout=60)
            self.worker = None

    def engines(self) -> list[psutil.Process]:
        """Every child of the worker that is an engine: at work, or the spare."""
        assert self.worker
        family = psutil.Process(self.worker.pid).children(recursive=True)
        return [one for one in family if "worker.distill" in " ".join(one.cmdline())]

    def wait_for(self, condition: Callable[[], Any], seconds: float = 120.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.worker is None or self.worker.poll() is None, self.tail()
            assert time.monotonic() < end, f"not within {seconds} s. The worker's log:\n{self.tail()}"
            time.sleep(0.1)
        return found

    def ended(self, run: Run) -> Run:
        return self.wait_for(lambda: Run.objects.filter(pk=run.pk, status__in=Run.ENDED).first())

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-5000:]


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str, django_db_blocker: Any) -> Iterator[Site]:
    """For this package alone: while it lives, the ORM speaks to the site's database."""
    home = tmp_path_factory.mktemp("site")
    ours = connections["default"]
    theirs = type(ours)(ours.settings_dict | {"NAME": str(home / "kdweb.sqlite3")}, "default")
    client = Celery(broker=redis_url.replace("unix://", "redis+socket://", 1))
    usual = queue.app
    site = Site(home, redis_url)
    with django_db_blocker.unblock(), override_settings(KDWEB_DATA=home, KDWEB_REDIS_URL=redis_url):
        connections["default"], queue.app = theirs, client
        try:
            call_command("migrate", verbosity=0)
            site.start()
            site.wait_for(lambda: Worker.objects.filter(name="cpu0@test").exists())
            yield site
        finally:
            site.stop(signal.SIGKILL)
            theirs.close()
            connections["default"], queue.app = ours, usual
