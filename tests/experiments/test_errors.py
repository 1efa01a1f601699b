"""A database that is away, read-only, full or busy in the middle of a request: 503 in words, nothing half."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.db import InterfaceError, InternalError, OperationalError
from django.test import Client
from django.urls import reverse

from experiments import lifecycle, notes
from experiments.models import Run
from experiments.run_table import table
from experiments.views.errors import reason

from . import make
from .people import a_user, browser

pytestmark = pytest.mark.django_db
AWAY = OperationalError('connection failed: connection to server on socket "/run/secret.sock" failed')


@pytest.fixture
def ann() -> Client:
    client = browser(a_user("ann"))
    client.raise_request_exception = False
    return client


def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> None:
    def fail(*args: Any, **values: Any) -> None:
        raise error

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AWAY, "does not answer"),
        (InterfaceError("connection already closed"), "does not answer"),
        (InternalError("cannot execute UPDATE in a read-only transaction"), "may only be read"),
        (OperationalError("attempt to write a readonly database"), "may only be read"),
        (OperationalError("database or disk is full"), "disk of the database is full"),
        (OperationalError("could not extend file: No space left on device"), "disk of the database is full"),
        (OperationalError("database is locked"), "busy for too long"),
        (OperationalError("no such table: experiments_pulse"), "manage.py prepare"),
    ],
)
def test_each_way_of_not_answering_has_its_sentence(error: Exception, said: str) -> None:
    assert said in reason(error)
    assert "secret" not in reason(error)


def test_other_errors_are_none_of_these() -> None:
    for error in (ValueError("read-only"), InternalError("current transaction is aborted"), KeyError("x")):
        assert reason(error) == ""


def test_a_page_says_503_in_words_and_when_to_come_again(
    ann: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, table, "build", AWAY)
    failing(monkeypatch, Run.objects.all().__class__, "for_user", AWAY)
    response = ann.get(reverse("run_list"))
    assert (response.status_code, response["Retry-After"]) == (503, "10")
    assert "The database does not answer." in response.content.decode()
    assert "secret" not in response.content.decode()
    part = ann.get(reverse("run_list"), headers={"HX-Request": "true"})
    assert (part.status_code, part["Content-Type"]) == (503, "text/plain; charset=utf-8")
    said = ann.get("/api/runs")
    assert (said.status_code, said.json()["detail"][:28]) == (503, "The database does not answer")


def test_it_is_said_as_well_where_only_the_session_is_asked_for(
    ann: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, SessionStore, "load", AWAY)
    for address in (reverse("home"), reverse("run_list"), "/api/runs", "/admin/"):
        response = ann.get(address)
        assert response.status_code == 503, address
        assert "does not answer" in response.content.decode()
    assert ann.get("/healthz").status_code == 200
    assert set(ann.get("/health.json").json()) == {"status", "broken", "checks"}


def test_a_change_that_was_refused_says_why_and_leaves_nothing_half(
    ann: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make.a_run(name="waits", status="queued")
    full = OperationalError("database or disk is full")
    failing(monkeypatch, lifecycle, "_note", full)  # the row has been changed by then
    response = ann.post(reverse("run_pause", args=[run.pk]))
    assert response.status_code == 503
    assert "The disk of the database is full" in response.content.decode()
    assert Run.objects.get(pk=run.pk).status == "queued"
    failing(monkeypatch, notes, "save", InternalError("cannot execute UPDATE in a read-only transaction"))
    said = ann.put(f"/api/runs/{run.pk}/notes", {"text": "x", "version": 0}, content_type="application/json")
    assert (said.status_code, "may only be read" in said.json()["detail"]) == (503, True)


def test_a_mistake_of_ours_is_still_a_500(ann: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, table, "build", KeyError("ours"))
    response = ann.get(reverse("run_list"))
    assert response.status_code == 500
    assert "Something broke on our side" in response.content.decode()
