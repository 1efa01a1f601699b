"""The drill: a site is backed up while it works, dies altogether, and goes on elsewhere from the backup."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environ
import psycopg
import pytest
from celery import Celery
from django.core.management import call_command
from django.test import override_settings

from experiments import lifecycle, metric_store, queue
from experiments.backup import database, manifest
from experiments.models import Run, Worker
from experiments.models.catalogue import Readiness
from kdweb import embedded_redis
from tests.experiments.make import a_dataset, a_project, a_run, an_architecture
from tests.running import manage
from tests.worker.conftest import Site
from worker.distill.spec import Training

from .conftest import at, contents, edit, write
from .conftest import manage as in_process

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


STATUSES = {
    "done": "succeeded",
    "at work": "running",
    "waits": "queued",
    "waits too": "queued",
    "paused": "paused",
}


@dataclass
class Place:
    """A home, a Redis and a database, of which nothing is used by anybody else."""

    home: Path
    redis_url: str
    database_url: str

    @property
    def config(self) -> dict[str, Any] | None:
        if not self.database_url:
            return None
        parsed: dict[str, Any] = environ.Env.db_url_config(self.database_url)
        return parsed

    def manage(self, *argv: str) -> str:
        env = {"KDWEB_REDIS_URL": self.redis_url, "KDWEB_DATABASE_URL": self.database_url}
        done = manage(self.home, 0, *argv, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(params=["sqlite", "postgresql"])
def postgres(request: pytest.FixtureRequest) -> str:
    """The URL of a server, or nothing: then SQLite it is."""
    return request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""


def new_database(url: str) -> str:
    """An empty one on that server, with a password to connect."""
    if not url:
        return ""
    folder, name = url.partition("host=")[2], f"drill_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(host=folder, user="kdweb", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgres://kdweb:hush@/{name}?host={folder}"


@contextmanager
def a_place(folder: Path, postgres: str) -> Iterator[Place]:
    home = folder / "home"
    home.mkdir(parents=True)
    with embedded_redis.running(folder) as url:
        place = Place(home, url, new_database(postgres))
        with at(home, place.config), override_settings(KDWEB_REDIS_URL=url):
            yield place


@contextmanager
def working(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A worker at this place; killed at the end, with everything it started."""
    monkeypatch.setenv("KDWEB_DATABASE_URL", place.database_url)
    client = Celery(broker=place.redis_url.replace("unix://", "redis+socket://", 1))
    monkeypatch.setattr(queue, "app", client)
    site = Site(place.home, place.redis_url)
    try:
        site.start()
        site.wait_for(lambda: Worker.objects.filter(name="cpu0@test").exists())
        yield site
    finally:
        site.stop(signal.SIGKILL)


def submit(name: str, epochs: int) -> Run:
    training = {"epochs": epochs, "batch_size": 128, "learning_rate": 0.05, "augment": False}
    run = a_run(
        name=name,
        dataset=a_dataset(),
        architecture=an_architecture(),
        training=Training(**training).model_dump(),
        objective={},
    )
    assert lifecycle.submit(run, "ada")
    return run


def busy(site: Site) -> dict[str, Run]:
    """One run done, one at work that has left a checkpoint, two that wait, one that shall not go on yet."""
    a_project()
    unprepared = {"status": Readiness.PREPARING, "classes": [], "channels": None}
    dataset = a_dataset("digits", **unprepared, height=None, width=None)
    queue.send_dataset(dataset)
    site.wait_for(lambda: type(dataset).objects.filter(pk=dataset.pk, status=Readiness.READY).exists())
    done = submit("done", 1)
    done = ended(site, done)
    assert (done.status, done.reason) == ("succeeded", "")
    runs = {"done": done, "at work": submit("at work", 120)}
    runs |= {name: submit(name, 2) for name in ("waits", "waits too")}
    assert lifecycle.request_pause(submit("paused", 2), "ada")
    at_work = Run.objects.filter(pk=runs["at work"].pk, status="running", step__gt=0)
    site.wait_for(lambda: at_work.filter(artifacts__kind="resume").exists())
    return runs


def ended(site: Site, run: Run) -> Run:
    """Patient: whoever runs the tests may have other things to do."""
    return site.wait_for(lambda: Run.objects.filter(pk=run.pk, status__in=Run.ENDED).first(), seconds=300)


def weights(run: Run) -> bytes:
    return run.artifacts.get(kind="student").full_path.read_bytes()


def test_a_site_that_died_goes_on_elsewhere(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any
) -> None:
    backup = tmp_path / "backup"
    with django_db_blocker.unblock():
        with a_place(tmp_path / "a", postgres) as old:
            call_command("migrate", verbosity=0)
            with working(old, monkeypatch) as site:
                runs = busy(site)
                said = old.manage("backup", str(backup))
                assert "5 runs" in said
                found = {run.name: run.status for run in Run.objects.all()}
                assert found == STATUSES, "it went on working"
            trained = weights(runs["done"])
        made = manifest.read(backup)
        assert (made.database, made.missing) == ("postgresql" if postgres else "sqlite", [])
        with a_place(tmp_path / "b", postgres) as new:
            said = new.manage("restore", str(backup))
            assert "0 not as they should be; 0 others." in said
            from_step = Run.objects.get(name="at work").artifacts.filter(kind="resume").first().step
            assert weights(Run.objects.get(name="done")) == trained
            with working(new, monkeypatch) as site:
                for run in runs.values():
                    now = ended(site, run)
                    assert (now.name, now.status, now.reason) == (run.name, "succeeded", "")
                    assert steps(now) == list(range(1, now.total_steps + 1)), "each once"
            assert Run.objects.get(name="paused").status == "paused"
            went_on(Run.objects.get(name="at work"), from_step)
            new.manage("restore", "--check")


def steps(run: Run) -> list[int]:
    return metric_store.read(run.series.get(name="loss/total"), width=10**6).step.tolist()


def went_on(run: Run, from_step: int) -> None:
    """From the checkpoint, as a further attempt."""
    assert run.fence == 2
    assert [attempt.outcome for attempt in run.attempts.all()] == ["lost", "succeeded"]
    assert run.attempts.last().from_step == from_step > 0
    assert run.log.filter(text=f"Resumed at step {from_step}.").exists()
    assert run.events.filter(text__startswith="Restored from the backup of").exists()


def test_the_password_is_not_among_the_arguments(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any
) -> None:
    """The real tool behind a script that notes what it was called with."""
    note, script = tmp_path / "note", tmp_path / "bin/pg_dump"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$PGPASSWORD $@" > {note}\nexec {database._find("pg_dump")} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    with django_db_blocker.unblock(), a_place(tmp_path / "a", postgres_url):
        call_command("migrate", verbosity=0)
        call_command("backup", str(tmp_path / "backup"))
    password, *arguments = note.read_text().split()
    assert password == "hush"
    assert not [argument for argument in arguments if "hush" in argument]


def test_what_postgresql_cannot_restore_leaves_nothing(
    postgres_url: str, tmp_path: Path, django_db_blocker: Any
) -> None:
    """The end of the dump is not what it was, and the manifest was made to fit."""
    backup = tmp_path / "backup"
    with django_db_blocker.unblock():
        with a_place(tmp_path / "a", postgres_url) as old:
            call_command("migrate", verbosity=0)
            a_dataset()
            write(f"datasets/{a_dataset().pk}/meta.json", b'{"fingerprint": ""}')
            call_command("backup", str(backup))
        dump = backup / "database.pgdump"
        os.truncate(dump, dump.stat().st_size // 2)
        edit(backup, lambda content: content["files"].update({dump.name: manifest.digest(dump).model_dump()}))
        with a_place(tmp_path / "b", postgres_url) as new:
            code, said = in_process("restore", str(backup))
            assert (code, said.startswith("pg_restore failed: ")) == (1, True), said
            assert database.tables() == []
            assert (contents(new.home), list(new.home.glob(".restoring"))) == ({}, [])
    assert old.database_url != new.database_url
