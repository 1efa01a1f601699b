"""The health of the parts: bounded, independent, in words for people and numbers for machines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments import health, lifecycle, sweep
from experiments.health import BROKEN, FINE, WARNING, Check
from experiments.models import Pulse, Run, Worker

from . import make
from .people import a_user, browser

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sent")]


@pytest.fixture(autouse=True)
def nothing_pending() -> Iterator[None]:
    yield
    health._pending.clear()


def found(name: str) -> Check:
    return health.CHECKS[name]()


def a_worker(**values: Any) -> Worker:
    return Worker.objects.create(**({"name": "w1", "host": "here", "queue": "cpu"} | values))


# --- Each part ----------------------------------------------------------------------------------------------
def test_the_database_answers_and_is_as_the_code_expects_it() -> None:
    assert found("database").state == FINE
    assert found("migrations").state == FINE


def test_a_broker_that_is_away_is_named_without_its_address(settings: Any) -> None:
    settings.KDWEB_REDIS_URL = "redis://user:secret@127.0.0.1:1/0"
    check = {one.name: one for one in health.ask()}["broker"]
    assert check.state == BROKEN
    assert "Start Redis" in check.fix
    assert "secret" not in check.text + check.fix
    assert "127.0.0.1" not in check.text + check.fix


@pytest.mark.server
def test_a_broker_that_answers_is_fine(settings: Any, redis_url: str) -> None:
    settings.KDWEB_REDIS_URL = redis_url
    assert found("broker").state == FINE


def test_a_sweep_that_is_late_is_an_alarm() -> None:
    assert "No sweep has ever happened." in found("sweep").text
    sweep.sweep("w1")  # the very first one makes the row
    assert sweep.sweep("w1")
    assert found("sweep").state == FINE
    Pulse.objects.update(at=timezone.now() - timedelta(minutes=3, seconds=5))
    late = found("sweep")
    assert (late.state, late.text) == (
        BROKEN, "No sweep for 3 minutes: no worker and no web process sweeps.",
    )  # fmt: skip
    assert late.facts["seconds"] > 180


def test_workers_are_counted_by_what_they_do() -> None:
    assert found("workers").text == "No worker is alive: nothing trains."
    a_worker(drain=True)
    assert found("workers").state == WARNING
    a_worker(name="w2")
    assert found("workers") == Check(
        "workers", FINE, "2 alive, 1 of them takes runs.",
        facts={"alive": 2, "taking": 1, "drained": 1, "troubled": 0},
    )  # fmt: skip
    a_worker(name="w3", trouble="Out of rotation: no GPU.")
    assert (found("workers").state, found("workers").facts["troubled"]) == (WARNING, 1)


def test_a_run_that_waits_beside_an_idle_worker_is_a_warning() -> None:
    assert found("queue").text == "Nothing waits."
    run = make.a_run()
    lifecycle.submit(run, "ann")
    worker = a_worker()
    assert found("queue").state == FINE
    Run.objects.update(queued=timezone.now() - timedelta(minutes=10))
    check = found("queue")
    assert (check.state, check.text) == (
        WARNING, "1 run waits, the oldest that could start for 10 minutes.",
    )  # fmt: skip
    assert check.facts["oldest_startable_seconds"] >= 600
    Worker.objects.filter(pk=worker.pk).update(run=make.a_running_run())
    assert found("queue").state == FINE  # all hands are busy: waiting is usual
    make.a_dataset("slow", status="preparing")


def test_a_disk_below_the_floor_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("disk").facts["floor"] == 1 << 30
    monkeypatch.setattr(health, "ROOM", 1 << 60)
    assert found("disk").state == BROKEN


def test_missing_and_newer_migrations_are_told_apart() -> None:
    recorder = MigrationRecorder.Migration.objects
    last = recorder.filter(app="experiments").latest("pk")
    recorder.filter(pk=last.pk).delete()
    try:
        assert "lacks 1 migration of this code" in found("migrations").text
    finally:
        last.save(force_insert=True)
    newer = recorder.create(app="experiments", name="9999_from_the_future")
    try:
        assert "newer than this web process's code" in found("migrations").text
    finally:
        newer.delete()


# --- All together -------------------------------------------------------------------------------------------
def a_part(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    monkeypatch.setitem(health.CHECKS, "database", act)


def test_a_part_that_hangs_keeps_nobody_waiting_and_one_thread_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released, asked = threading.Event(), []

    def hang() -> Check:
        asked.append(1)
        released.wait(60)
        return Check("database", FINE, "late")

    a_part(monkeypatch, hang)
    try:
        for _ in range(3):
            began = time.monotonic()
            checks = {one.name: one for one in health.ask()}
            assert time.monotonic() - began < health.PATIENCE + 2
            assert checks["database"].text == "No answer within 2 s."
            assert checks["disk"].state == FINE
            assert checks["migrations"].state == FINE
        assert len(asked) == 1
    finally:
        released.set()
    deadline = time.monotonic() + 20
    while {one.name: one for one in health.ask()}["database"].state != FINE:
        assert time.monotonic() < deadline


def test_a_part_that_fails_is_named_by_the_kind_of_error_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Check:
        raise OperationalError("connection to server at db.internal as kdweb with password hunter2 failed")

    a_part(monkeypatch, away)
    response = Client().get("/health.json")
    assert response.status_code == 503
    assert response.json()["checks"]["database"]["text"] == "Does not answer (OperationalError)."
    assert "hunter2" not in response.content.decode()
    assert "database" in response.json()["broken"]


def test_a_check_with_a_mistake_is_no_500(monkeypatch: pytest.MonkeyPatch) -> None:
    a_part(monkeypatch, lambda: 1 / 0)
    response = Client().get("/health.json")
    assert response.status_code == 503
    assert "The check itself failed (ZeroDivisionError)." in response.content.decode()


def all_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in health.CHECKS:
        fine = Check(name, FINE, "Well.", facts={"n": 1})
        monkeypatch.setitem(health.CHECKS, name, lambda fine=fine: fine)


def test_machines_need_no_login_and_get_numbers_but_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    a_worker(name="gpu0@secret-host")
    make.a_run(name="secret run", status="queued")
    text = Client().get("/health.json").content.decode()
    assert "secret" not in text
    all_fine(monkeypatch)
    response = Client().get("/health.json")
    assert (response.status_code, response.json()["status"], response.json()["broken"]) == (200, "ok", [])
    assert response.json()["checks"]["queue"] == {"state": "fine", "text": "Well.", "n": 1}
    assert "no-store" in response["Cache-Control"]
    assert Client().post("/health.json").status_code == 405


def test_a_warning_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    all_fine(monkeypatch)
    monkeypatch.setitem(health.CHECKS, "workers", lambda: Check("workers", WARNING, "Drained.", "Undrain."))
    response = Client().get("/health.json")
    assert (response.status_code, response.json()["checks"]["workers"]["state"]) == (200, "warning")


def test_people_log_in_and_read_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Client().get(reverse("health")).status_code == 302
    ann = browser(a_user("ann"))
    text = ann.get(reverse("health")).content.decode()
    assert "No worker is alive: nothing trains." in text
    assert "manage.py up" in text
    assert reverse("health") in ann.get(reverse("worker_list")).content.decode()
    all_fine(monkeypatch)
    response = ann.get(reverse("health"), headers={"HX-Request": "true"})
    assert "All parts work." in response.content.decode()
    assert "<html" not in response.content.decode()


def test_liveness_asks_nobody(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert Client().get("/healthz").content == b"ok\n"
