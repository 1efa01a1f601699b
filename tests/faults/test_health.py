"""What machines and people are told while the database or the broker is dead, silent, or may only be read."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from experiments.models import Run

from .person import Answer, Client
from .processes import until
from .servers import Broker, Postgres
from .site import Site
from .workers import WebProcess

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture
def web(postgres_site: Site) -> WebProcess:
    return postgres_site.web().start()


def health(web: WebProcess) -> Answer:
    return web.stranger().get("/health.json")


def broken(web: WebProcess) -> set[str]:
    """What is broken; no worker is meant to be there, so that is left out."""
    answer = health(web)
    assert answer.status == 503
    return set(answer.json["broken"]) - {"workers"}


@contextmanager
def away(server: Postgres | Broker, how: str) -> Iterator[None]:
    """Stopped: it refuses. Frozen: it takes connections and says nothing."""
    assert server.process
    if how == "frozen":
        server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.process.send_signal(signal.SIGCONT)
    else:
        server.stop()
        try:
            yield
        finally:
            server.start()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_broker_that_is_away_is_the_only_part_named(postgres_site: Site, web: WebProcess, how: str) -> None:
    until(lambda: not broken(web), 60, "everything but the workers is fine")
    with away(postgres_site.broker, how):
        assert broken(web) == {"broker"}
        assert web.stranger().get("/healthz").status == 200
    until(lambda: not broken(web), 60, "the broker is back")


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_database_that_is_away_is_named_and_every_page_says_so(
    postgres_site: Site, web: WebProcess, how: str
) -> None:
    ann = web.client("ann")
    until(lambda: not broken(web), 60, "everything but the workers is fine")
    with away(postgres_site.postgres, how):
        for _ in range(3):  # nobody who asks again hangs on those before
            assert {"database", "migrations"} <= broken(web)
        assert "broker" not in broken(web)
        assert "disk" not in broken(web)
        for path in ("/", "/runs/", "/workers/", "/health/"):
            said_away(ann.get(path))
        assert "does not answer" in ann.get("/api/runs").json["detail"]
        assert web.stranger().get("/healthz").status == 200
    until(lambda: not broken(web), 60, "the database is back")
    assert ann.get("/runs/").status == 200


def said_away(answer: Answer) -> None:
    assert answer.status == 503
    assert answer.headers["retry-after"] == "10"
    assert "The database does not answer." in answer.text


def pause(ann: Client, run: Run) -> Answer:
    return ann.post(f"/runs/{run.pk}/pause", {"csrfmiddlewaretoken": ann.cookies["csrftoken"]})


def test_f31_a_database_that_may_only_be_read_refuses_with_its_reason(
    postgres_site: Site, web: WebProcess
) -> None:
    """the server lets nobody write, a person pauses a run → 503 with the reason; nothing is half saved."""
    run, ann = postgres_site.start_run("waits"), web.client("ann")
    postgres_site.postgres.read_only()
    until(lambda: pause(ann, run).status == 503, 30, "the change is refused")
    assert "The database may only be read" in pause(ann, run).text
    assert ann.get(f"/runs/{run.pk}/").status == 200  # what is read goes on
    until(lambda: "sweep" in broken(web), 90, "the sweep is late, and that is an alarm")
    postgres_site.postgres.read_only(False)
    until(lambda: pause(ann, run).status == 302, 30, "the change is made")
    run.refresh_from_db()
    assert run.status == "paused"
    until(lambda: not broken(web), 60, "the sweep goes on")
