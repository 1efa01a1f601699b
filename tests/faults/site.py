"""A site of its own: data folder, broker, database, workers, web. The test speaks to it through the ORM."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

from celery import Celery
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, connection, connections
from django.db.utils import ConnectionHandler
from django.test import override_settings

import kdweb.settings
from experiments import lifecycle, metric_store, queue, stream
from experiments.models import Dataset, Membership, Run
from tests.experiments.make import a_dataset, a_project, an_architecture
from worker.distill.spec import Training

from . import processes, twins
from .person import PASSWORD
from .servers import Broker, Database, Postgres, Sqlite, short_folder
from .templates import Template
from .workers import Process, WebProcess, WorkerProcess

T = TypeVar("T")
AWAY = (OperationalError, InterfaceError)
ARGON2 = "django.contrib.auth.hashers.Argon2PasswordHasher"  # the web process takes no cheaper one


class Site:
    """Use it as a context manager: within, `Run.objects` and all the rest mean this site's database.

    `settings` names another settings module for its processes, `env` more of their environment.
    """

    def __init__(
        self,
        template: Template,
        broker: Broker,
        database: Database,
        settings: str = "kdweb.settings",
        **env: str,
    ) -> None:
        self.template, self.broker, self.database = template, broker, database
        self.home = short_folder()
        (self.home / "logs").mkdir()
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("KDWEB_", "DJANGO_", "PYTEST_"))
        }
        self.env = inherited | {
            "KDWEB_HOME": str(self.home),
            "KDWEB_REDIS_URL": broker.url,
            "KDWEB_DATABASE_URL": database.url,
            "KDWEB_STATIC_ROOT": str(template.static),
            "DJANGO_SETTINGS_MODULE": settings,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
            **env,
        }
        self.processes: list[Process] = []
        self.stack = ExitStack()

    # --- Its life ---------------------------------------------------------------------------------------
    def __enter__(self) -> Site:
        try:
            self.stack.callback(self._remove)
            self.broker.start()
            if isinstance(self.database, Postgres):
                self.database.start()
            self.stack.enter_context(self._spoken_to())
            self.digits = self._prepared_digits()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def _remove(self) -> None:
        """Every process, whatever happened to it, then every file."""
        try:
            for process in self.processes:
                process.close()
            processes.kill_all(processes.of_home(self.home))
        finally:
            self.broker.close()
            self.database.close()
            shutil.rmtree(self.home, ignore_errors=True)

    @contextmanager
    def _spoken_to(self) -> Iterator[None]:
        """The ORM, the broker's client and the live frames of this process are the site's."""
        with patch.dict(os.environ, {"KDWEB_DATABASE_URL": self.database.url}):
            config = kdweb.settings.database()
        theirs = ConnectionHandler({"default": config}).create_connection("default")
        ours, usual = connections["default"], queue.app
        client = Celery("kdweb", set_as_current=False)
        client.conf.update(
            broker_url=self.broker.url.replace("unix://", "redis+socket://", 1),
            broker_connection_retry=False,
            broker_transport_options={"max_retries": 1, "interval_start": 0, "socket_timeout": 5},
        )
        values = {"KDWEB_DATA": self.home, "KDWEB_HOME": self.home, "KDWEB_REDIS_URL": self.broker.url}
        with override_settings(**values, PASSWORD_HASHERS=[ARGON2]):
            _forget_streams()
            connections["default"], queue.app = theirs, client
            try:
                yield
            finally:
                theirs.close()
                connections["default"], queue.app = ours, usual
                client.close()
                _forget_streams()

    def _prepared_digits(self) -> Dataset:
        dataset = a_dataset("digits", **self.template.described)
        shutil.copytree(self.template.digits, dataset.folder)
        return dataset

    @property
    def postgres(self) -> Postgres:
        """Its database, which must be PostgreSQL."""
        assert isinstance(self.database, Postgres), 'make it with make_site("postgresql")'
        return self.database

    @property
    def sqlite(self) -> Sqlite:
        """Its database, which must be SQLite."""
        assert isinstance(self.database, Sqlite)
        return self.database

    # --- Its processes ----------------------------------------------------------------------------------
    def worker(
        self, name: str = "cpu0", queues: str = "cpu,control", concurrency: int = 1, **env: str
    ) -> WorkerProcess:
        """A worker, not started yet. `env`, e.g. KDWEB_REDIS_URL of a Proxy, is for it alone."""
        worker = WorkerProcess(self, name, queues, concurrency, env)
        self.processes.append(worker)
        return worker

    def web(self, **env: str) -> WebProcess:
        """A web process, not started yet."""
        self.template.collect_static()
        web = WebProcess(self, env)
        self.processes.append(web)
        return web

    def manage(self, *words: str, patience: float = 120.0, **env: str) -> str:
        """`manage.py …` on this site: what it printed."""
        return processes.python("manage.py", *words, env=self.env | env, patience=patience)

    # --- People and runs --------------------------------------------------------------------------------
    def person(self, name: str = "ann", role: str | None = "member", **values: Any) -> User:
        """Somebody with PASSWORD and a role in the project of `start_run`."""
        user = get_user_model().objects.filter(username=name).first()
        user = user or get_user_model().objects.create_user(name, password=PASSWORD, **values)
        if role:
            Membership.objects.get_or_create(user=user, project=a_project(), defaults={"role": role})
        return user

    def draft(self, name: str = "run", *, epochs: int = 20, training: Any = None, **values: Any) -> Run:
        """A control of resnet8 on digits (11 steps an epoch), not submitted yet."""
        budget = {"epochs": epochs, "batch_size": 128, "learning_rate": 0.05, "augment": False}
        defaults = {
            "project": a_project(),
            "dataset": self.digits,
            "purpose": Run.Purpose.CONTROL,
            "architecture": an_architecture(),
            "objective": {},
            "training": Training(**(budget | (training or {}))).model_dump(),
        }
        return Run.objects.create(name=name, **(defaults | values))

    def start_run(self, name: str = "run", *, epochs: int = 20, training: Any = None, **values: Any) -> Run:
        """As `draft`, and submitted."""
        run = self.draft(name, epochs=epochs, training=training, **values)
        assert lifecycle.submit(run, "ann")
        return run

    # --- Waiting ----------------------------------------------------------------------------------------
    def wait_for(self, condition: Callable[[], T | None], seconds: float = 120.0) -> T:
        """The first true answer. A database that is away is asked again."""
        end = time.monotonic() + seconds
        while True:
            try:
                if found := condition():
                    return found
            except AWAY:
                connection.close()
            assert time.monotonic() < end, f"not within {seconds} s.{self.tails()}"
            time.sleep(0.1)

    def running(self, run: Run, step: int = 0, fence: int = 0, seconds: float = 120.0) -> Run:
        """Waits until it trains beyond `step`, in attempt `fence` or a later one."""
        found = Run.objects.filter(pk=run.pk, status=Run.Status.RUNNING, step__gt=step, fence__gte=fence)
        return self.wait_for(found.first, seconds)

    def status(self, run: Run, *wanted: str, seconds: float = 120.0) -> Run:
        """Waits until its status is one of these."""
        return self.wait_for(Run.objects.filter(pk=run.pk, status__in=wanted).first, seconds)

    def ended(self, run: Run, seconds: float = 240.0) -> Run:
        return self.status(run, *Run.ENDED, seconds=seconds)

    def succeeded(self, run: Run, seconds: float = 240.0) -> Run:
        """Waits for its end, which must be a good one."""
        run = self.ended(run, seconds)
        assert run.status == Run.Status.SUCCEEDED, f"{run.status}: {run.reason}{self.tails()}"
        return run

    def resumable(self, run: Run, step: int = 0, seconds: float = 120.0) -> Run:
        """Waits until a checkpoint beyond `step` is in the database."""
        self.wait_for(lambda: run.artifacts.filter(kind="resume", step__gt=step).exists(), seconds)
        return Run.objects.get(pk=run.pk)

    # --- Looking ----------------------------------------------------------------------------------------
    def steps(self, run: Run, name: str = "loss/total") -> list[int]:
        """The steps of a series as they are stored."""
        return list(metric_store.read(run.series.get(name=name), width=10**7).step.tolist())

    def events(self, run: Run) -> list[str]:
        return list(run.events.values_list("text", flat=True))

    def outcomes(self, run: Run) -> list[str]:
        return list(run.attempts.values_list("outcome", flat=True))

    def tails(self, characters: int = 4000) -> str:
        """The ends of all logs, for the message of a test that failed."""
        return "".join(f"\n--- {one.name}:\n{one.log()[-characters:]}" for one in self.processes)

    def twin(self, run: Run) -> twins.Twin:
        return twins.twin(run)

    def assert_same(self, run: Run) -> None:
        """Succeeded, with the undisturbed twin's weights and curves, every step once."""
        twins.assert_same(run)


def _forget_streams() -> None:
    """The publisher of live frames keeps its connection; the next site has another broker."""
    stream._writer.cache_clear()
    stream._missed.clear()
    stream._quiet_until = queue._quiet_until = 0.0


def make_site(
    template: Template,
    database: str = "sqlite",
    max_connections: int = 60,
    settings: str = "kdweb.settings",
    **env: str,
) -> Site:
    """`database`: sqlite or postgresql. Nothing runs before the site is entered."""
    chosen: Database = (
        Sqlite(template.sqlite())
        if database == "sqlite"
        else Postgres(template.postgres(), max_connections=max_connections)
    )
    return Site(template, Broker(), chosen, settings, **env)
