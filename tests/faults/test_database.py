"""The database goes away, is locked, refuses, fills up, or is of another version. Training goes on."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder

from experiments import metric_store
from experiments.models import Run, Upload, Worker

from .disks import Disk, small_disk
from .person import Client
from .processes import slowly, until
from .proxy import Proxy
from .servers import Broker, Sqlite
from .site import Site
from .templates import Template
from .test_web import form
from .twins import sha256

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

EPOCHS = 30  # of 10 steps: some seconds, or as long as one likes with `slowly`
OUT = 36.0  # seconds: longer than lease and suspicion together


def journal(run: Run, fence: int = 1) -> Path:
    return run.folder / str(fence) / "journal.jsonl"


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def grows(site: Site, run: Run, seconds: float = 60) -> None:
    """The engine goes on: what it says is kept on the disk."""
    before = size(journal(run))
    site.wait_for(lambda: size(journal(run)) > before, seconds)


def caught_up(site: Site, run: Run) -> None:
    site.wait_for(lambda: not journal(run).exists(), 60)


def once(site: Site, run: Run) -> None:
    """One attempt from the first step to the last, and the twin's result."""
    site.ended(run)
    assert site.outcomes(run) == ["succeeded"]
    assert Run.objects.get(pk=run.pk).fence == 1
    site.assert_same(run)


# --- Away -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_f28_database_away_while_training(postgres_site: Site, how: str) -> None:
    """stop PostgreSQL (in order, or as a crash) for longer than lease and suspicion, two workers → training
    goes on, nobody else claims the run, all is caught up, the twin's result."""
    site = postgres_site
    worker = site.worker("cpu0").start()
    run = site.start_run(epochs=EPOCHS)
    site.running(run)
    with slowly(worker.engine()):
        site.worker("cpu1").start()
        site.postgres.stop(how)
        end = time.monotonic() + OUT
        while time.monotonic() < end:
            grows(site, run)
            time.sleep(2)
        assert worker.engine().is_running()
        site.postgres.start()
        caught_up(site, run)
        time.sleep(6)  # a sweep or two, with the lease as it was found
    once(site, run)


@pytest.mark.timeout(1500)
def test_f28_database_and_broker_away_for_ten_minutes(postgres_site: Site) -> None:
    """stop PostgreSQL and Redis for ten minutes, two workers → training goes on all the time, one attempt,
    the twin's result; then the next run starts by itself."""
    site = postgres_site
    worker = site.worker("cpu0").start()
    run = site.start_run(epochs=8 * EPOCHS)
    site.running(run)
    with slowly(worker.engine(), share=0.05):
        site.worker("cpu1").start()
        site.postgres.stop()
        site.broker.kill()
        end = time.monotonic() + 600
        while time.monotonic() < end:
            grows(site, run)
            time.sleep(5)
        assert worker.engine().is_running()
        site.broker.start()
        site.postgres.start()
        caught_up(site, run)
        time.sleep(6)  # a sweep or two, with the lease as it was found
    once(site, run)
    site.assert_same(site.ended(site.start_run("afterwards", epochs=2)))


def test_f28_database_restarted_while_training(postgres_site: Site) -> None:
    """restart PostgreSQL three times mid-run and cut all connections each time → one attempt, the twin's
    result."""
    site = postgres_site
    worker = site.worker().start()
    run = site.start_run(epochs=EPOCHS)
    site.running(run)
    with slowly(worker.engine()):
        for how in ("fast", "immediate", "fast"):
            site.postgres.restart(how)
            before = site.wait_for(lambda: Run.objects.get(pk=run.pk)).step
            site.running(run, step=before)
            site.postgres.cut()
    once(site, run)


def test_f28_worker_killed_while_the_database_is_away(postgres_site: Site) -> None:
    """stop PostgreSQL, SIGKILL the worker, start both → the next attempt reads the journal in, goes on from
    a checkpoint the database had not heard of, and ends as the twin."""
    site = postgres_site
    worker = site.worker().start()
    run = site.start_run(epochs=EPOCHS)
    site.running(run)
    with slowly(worker.engine()):
        site.postgres.stop()
        heard = until(lambda: checkpoint_in(journal(run)), 60, "a checkpoint is in the journal")
        worker.kill(signal.SIGKILL)
    site.postgres.start()
    assert journal(run).exists()
    worker.start()
    site.ended(run)
    assert site.outcomes(run) == ["lost", "succeeded"]
    assert run.attempts.get(number=2).from_step >= heard
    site.assert_same(run)


def checkpoint_in(path: Path) -> int:
    """The step of a resume checkpoint that the journal tells of; 0: none."""
    for line in path.read_text().splitlines() if path.exists() else ():
        event = json.loads(line) if line.endswith("}") else {}
        if event.get("type") == "checkpoint" and event["kind"] == "resume":
            return int(event["step"])
    return 0


# --- Locked -----------------------------------------------------------------------------------------------
def test_f29_sqlite_locked_while_a_run_trains_and_a_form_is_sent(fresh_site: Site) -> None:
    """somebody holds SQLite's write lock for 25 s; half-way a run is submitted at the form → the training
    goes on, the form waits and succeeds, both runs end well."""
    site = fresh_site
    worker, ann = site.worker().start().announced(), site.web().start().client("ann")
    run = site.start_run(epochs=EPOCHS)
    site.running(run)
    answers = []
    post = threading.Thread(target=lambda: answers.append(ann.post("/runs/new/", form(site, "patient"))))
    with slowly(worker.engine()):
        with site.sqlite.locked():
            time.sleep(12)
            post.start()
            grows(site, run)  # the recorder has given up waiting and keeps what it hears
            time.sleep(8)
        post.join()
    assert answers[0].status == 302, answers[0].text[:3000]
    once(site, run)
    once(site, Run.objects.get(name="patient"))


@contextmanager
def second(site: Site) -> Iterator[psycopg.Connection]:
    """Another client of the same PostgreSQL, in a transaction of its own."""
    with psycopg.connect(host=str(site.postgres.folder), user="kdweb", dbname="postgres") as client:
        client.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        yield client
        client.rollback()


def waits_for(site: Site, client: psycopg.Connection) -> bool:
    pid = client.info.backend_pid
    return bool(site.postgres.ask(f"SELECT 1 FROM pg_stat_activity WHERE {pid} = ANY(pg_blocking_pids(pid))"))


def test_f29_deadlock_with_the_recorder(postgres_site: Site) -> None:
    """another client locks a series, then wants the run the recorder's transaction holds, three times → the
    server kills the recorder's transaction; it is repeated, nothing is lost and nothing is shown."""
    site = postgres_site
    worker = site.worker().start()
    run = site.start_run(epochs=EPOCHS)
    site.running(run, step=11)
    with slowly(worker.engine()):
        for _ in range(3):
            with second(site) as client:
                client.execute("SET deadlock_timeout = '60s'")  # so that the other one is the victim
                client.execute("SELECT 1 FROM experiments_series WHERE run_id = %s FOR UPDATE", [run.pk])
                site.wait_for(lambda client=client: waits_for(site, client), 30)
                client.execute("SELECT 1 FROM experiments_run WHERE id = %s FOR UPDATE", [run.pk])
            site.running(run, step=Run.objects.get(pk=run.pk).step)
    assert "deadlock detected" in (site.postgres.folder / "postgres.log").read_text()
    assert worker.says("deadlock detected")
    once(site, run)
    assert not run.log.filter(level="error").exists()


def test_f29_serialization_error_in_the_recorder(postgres_site: Site) -> None:
    """isolation "repeatable read", and another client changes the run while the recorder waits for it →
    "could not serialize access" is retried, nothing is lost."""
    site = postgres_site
    site.postgres.ask("ALTER SYSTEM SET default_transaction_isolation = 'repeatable read'")
    site.postgres.ask("SELECT pg_reload_conf()")
    worker = site.worker().start()
    run = site.start_run(epochs=EPOCHS)
    site.running(run, step=11)
    with slowly(worker.engine()):
        for _ in range(3):
            with second(site) as client:
                client.execute("UPDATE experiments_run SET notes = notes || '.' WHERE id = %s", [run.pk])
                site.wait_for(lambda client=client: waits_for(site, client), 30)
                client.commit()
            site.running(run, step=Run.objects.get(pk=run.pk).step)
    assert worker.says("could not serialize access")
    once(site, run)
    assert Run.objects.get(pk=run.pk).notes == "..."


# --- Read-only, full --------------------------------------------------------------------------------------
def refused(ann: Client, site: Site, words: str) -> None:
    """A form is answered with 503 and the reason, and nothing is saved."""
    answer = ann.post("/runs/new/", form(site, "refused"))
    assert answer.status == 503, answer.text[:2000]
    assert words in answer.text
    assert "Traceback" not in answer.text


def test_f31_postgres_read_only(postgres_site: Site) -> None:
    """the server lets nobody write → submitting is refused with the reason, pages are still read, the run
    keeps its journal and ends as its twin when writing is possible again."""
    site = postgres_site
    worker, ann = site.worker().start(), site.web().start().client("ann")
    run = site.start_run(epochs=EPOCHS)
    site.running(run)
    with slowly(worker.engine()):
        site.postgres.read_only()
        grows(site, run)
        refused(ann, site, "may only be read")
        assert ann.get(f"/runs/{run.pk}/").status == 200
        grows(site, run)
        site.postgres.read_only(False)
        caught_up(site, run)
    once(site, run)
    assert not Run.objects.filter(name="refused").exists()


def test_f31_disk_of_the_database_full(template: Template, django_db_blocker: Any) -> None:
    """the file system of SQLite's file is full → submitting is refused with the reason, the run keeps its
    journal on another disk and ends as its twin when there is room."""
    database = Sqlite(template.sqlite())
    with (
        django_db_blocker.unblock(),
        small_disk(database.folder, 64) as disk,
        Site(template, Broker(), database) as site,
    ):
        worker, ann = site.worker().start(), site.web().start().client("ann")
        run = site.start_run(epochs=EPOCHS)
        site.running(run)
        with slowly(worker.engine()):
            fill(disk, journal(run))
            refused(ann, site, "disk of the database is full")
            assert ann.get(f"/runs/{run.pk}/").status == 200
            grows(site, run)
            disk.clear()
            caught_up(site, run)
        once(site, run)
        assert not Run.objects.filter(name="refused").exists()


def fill(disk: Disk, kept: Path) -> None:
    """Until the database cannot even write into the room it has: its log of changes is emptied each time."""

    def full() -> bool:
        with suppress(OperationalError), connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        disk.fill()
        return kept.exists()

    until(full, 60, "the recorder finds no room")


# --- Another version --------------------------------------------------------------------------------------
APP, LATER = "experiments", "9999_of_the_future"


@contextmanager
def other_migrations(change: str) -> Iterator[str]:
    """The database says it is newer or older than the code; the migration in question."""
    recorder = MigrationRecorder(connection)
    name = LATER if change == "newer" else max(n for a, n in recorder.applied_migrations() if a == APP)
    apply = recorder.record_applied if change == "newer" else recorder.record_unapplied
    undo = recorder.record_unapplied if change == "newer" else recorder.record_applied
    apply(APP, name)
    try:
        yield name
    finally:
        undo(APP, name)


@pytest.mark.parametrize("change", ["newer", "older"])
def test_f32_database_of_another_version(site: Site, change: str) -> None:
    """a migration this code does not know, or one less → a running run goes on; the worker says so, takes
    no further run, and takes it when code and database fit again. simulated: the row of the migration."""
    first = site.start_run(f"before it was {change}", epochs=EPOCHS)
    site.running(first)
    with other_migrations(change) as name:
        second = site.start_run(f"while it was {change}", epochs=1)
        site.ended(first)
        said = Worker.objects.filter(name="cpu0@test", trouble__contains=name)
        site.wait_for(said.exists, 60)
        assert change == "newer" or "manage.py prepare" in said.get().trouble
        time.sleep(6)  # a sweep sends its message again
        assert Run.objects.get(pk=second.pk).status == "queued"
    once(site, second)
    once(site, first)
    site.wait_for(Worker.objects.filter(name="cpu0@test", trouble="").exists, 30)


# --- An upload --------------------------------------------------------------------------------------------
def test_f34_disk_full_at_the_last_piece_of_an_upload(make_site: Callable[..., Site]) -> None:
    """the disk of the uploads fills up when 99 % are there → the last piece is refused with the reason, what
    came before stays, nothing else is harmed; with room the piece is sent again and all is whole."""
    site = make_site()
    content = random.Random(34).randbytes(3 << 20)
    most = len(content) * 99 // 100
    with small_disk(site.home / "uploads", 5) as disk:
        ann = site.web().start().client("ann")
        about = {"name": "many", "kind": "image_folder", "filename": "a.zip", "size": len(content)}
        start = ann.post("/uploads/start/dataset", about)
        assert start.status == 201, start.text
        url, upload = start.json["url"], Upload.objects.get(pk=start.json["id"])
        assert ann.put(f"{url}piece?offset=0", content[:most]).json["received"] == most
        disk.fill()
        answer = ann.put(f"{url}piece?offset={most}", content[most:])
        assert answer.status == 507, answer.text[:2000]
        assert "No space left on device" in answer.json["error"]
        state = ann.send("GET", url, headers={"Accept": "application/json"}).json
        assert (state["received"], state["status"]) == (most, "receiving")
        assert ann.post("/runs/new/", form(site, "beside it")).status == 302
        disk.clear()
        done = ann.put(f"{url}piece?offset={most}", content[most:])
        assert done.json == {"received": len(content), "status": "checking"}
        assert upload.path.read_bytes() == content


def test_f34_an_upload_given_up_on_a_full_disk(make_site: Callable[..., Site]) -> None:
    """the disk fills up in the middle of an upload and the person gives up → its bytes are gone."""
    site = make_site()
    with small_disk(site.home / "uploads", 5) as disk:
        ann = site.web().start().client("ann")
        about = {"name": "many", "kind": "image_folder", "filename": "a.zip", "size": 4 << 20}
        url = ann.post("/uploads/start/dataset", about).json["url"]
        disk.fill(leave=1 << 20)
        assert ann.put(f"{url}piece?offset=0", bytes(4 << 20)).status == 507
        assert ann.post(f"{url}cancel").json == {"cancelled": True}
        assert not Upload.objects.exists()
        assert [path.name for path in disk.folder.iterdir()] == ["ballast"]


# --- A network that splits --------------------------------------------------------------------------------
def left_behind(run: Run) -> dict[str, Any]:
    """Whatever a late writer could have changed."""
    return {
        "row": Run.objects.values().get(pk=run.pk),
        "files": {a.path: (a.sha256, sha256(a.full_path)) for a in run.artifacts.all()},
        "series": {s.name: metric_store.read(s, width=10**7).lists() for s in run.series.all()},
        "lines": list(run.log.values_list("n", "text")),
        "events": list(run.events.values_list("text", flat=True)),
        "attempts": list(run.attempts.values()),
    }


def test_f62_worker_cut_off_until_its_run_has_ended_elsewhere(make_site: Callable[..., Site]) -> None:
    """worker ↔ PostgreSQL and Redis cut until another has finished the run, then healed → its late writes
    are refused, its engine ends, nothing of the result changes; it takes the next run."""
    site = make_site("postgresql")
    with Proxy.of_broker(site.broker) as redis, Proxy.of_postgres(site.postgres) as postgres:
        far = site.worker("far", KDWEB_REDIS_URL=redis.redis_url, KDWEB_DATABASE_URL=postgres.database_url)
        far.start()
        run = site.start_run(epochs=EPOCHS)
        site.running(run)
        engine = far.engine()
        with slowly(engine, 0.02):
            redis.cut()
            postgres.cut()
            near = site.worker("near").start()
            site.ended(run)
            assert engine.is_running(), "it was too quick to be late"
            before = left_behind(run)
            assert site.outcomes(run) == ["lost", "succeeded"]
            postgres.heal()
            redis.heal()
            site.wait_for(lambda: not engine.is_running(), 60)
            site.wait_for(lambda: far.says(f"Run {run.pk}: "), 30)
        near.terminate()
        following = site.ended(site.start_run("after it", epochs=1))
        assert (following.status, following.attempts.get().worker) == ("succeeded", "far@test")
        assert left_behind(run) == before
        site.assert_same(run)
