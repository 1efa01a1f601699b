"""The console: every line can be found, paged and taken home, with scripts and without."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import AsyncClient, Client
from django.urls import reverse

from experiments.models import LogLine, Run

from . import make

pytestmark = pytest.mark.django_db
LEVELS = {7: "warning", 8: "error", 9: "debug"}


@pytest.fixture
def run() -> Run:
    """Of its 6,000 lines every hundredth tells of a loss."""
    made = make.a_running_run()
    LogLine.objects.bulk_create(
        LogLine(
            run=made,
            n=n,
            wall=1.7e9 + n,
            level=LEVELS.get(n % 10, "info"),
            text=f"Loss 100% at {n}_x" if n % 100 == 8 else f"line {n}",
        )
        for n in range(1, 6_001)
    )
    return made


@pytest.fixture
def ana() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ana", password="x"))
    return client


def numbers(client: Client, run: Run, query: str) -> tuple[list[int], bool]:
    found = client.get(f"/api/runs/{run.pk}/log?{query}").json()
    return [line["n"] for line in found["lines"]], found["more"]


@pytest.mark.parametrize(
    ("query", "expected", "more"),
    [
        ("before=10&limit=3", [7, 8, 9], True),
        ("before=3", [1, 2], False),
        ("before=2147483647&limit=2", [5999, 6000], True),
        ("q=LOSS&after=5000&limit=2", [5008, 5108], True),
        ("q=loss&before=250", [8, 108, 208], False),
        ("q=100%25&before=150", [8, 108], False),  # no wildcard
        ("q=8_X&before=150", [8, 108], False),
        ("q=_&before=100", [8], False),
        ("level=error&before=30", [8, 18, 28], False),
        ("level=warning&after=5990", [5997, 5998], False),
        ("q=nothing+of+the+kind", [], False),
    ],
)
def test_lines_are_sought_in_all_there_are(
    ana: Client, run: Run, query: str, expected: list[int], more: bool
) -> None:
    assert numbers(ana, run, query) == (expected, more)


def test_an_unknown_level_is_refused_in_words(ana: Client, run: Run) -> None:
    response = ana.get(f"/api/runs/{run.pk}/log?level=loud")
    assert response.status_code == 400
    assert "loud" in response.json()["detail"]


def test_the_page_of_its_own_pages_back_without_scripts(ana: Client, run: Run) -> None:
    path = reverse("run_console", args=[run.pk])
    newest = ana.get(path).text
    assert newest.count('class="log-line"') == 500
    assert f'href="{path}?before=5501"' in newest
    older = ana.get(f"{path}?before=5501").text
    assert 'data-n="5001"' in older
    assert 'data-n="5501"' not in older
    found = ana.get(f"{path}?q=loss&level=error").text
    assert found.count('class="log-line"') == 60
    assert 'value="loss"' in found
    assert "No line matches." in ana.get(f"{path}?q=nothing+of+the+kind").text


def download(path: str) -> tuple[Any, str]:
    user = User.objects.create_superuser("root", password="x")

    async def get() -> tuple[Any, str]:
        client = AsyncClient()
        await client.aforce_login(user)
        response = await client.get(path)
        return response, b"".join([part async for part in response.streaming_content]).decode()

    return async_to_sync(get)()


@pytest.mark.django_db(transaction=True)
def test_all_lines_are_a_plain_file(run: Run) -> None:
    response, text = download(reverse("run_log", args=[run.pk]))
    assert response["Content-Type"].startswith("text/plain")
    assert response["Content-Disposition"] == f'attachment; filename="run-{run.pk}.log"'
    assert len(text.splitlines()) == 6_000
    assert text.splitlines()[107] == "1700000108.000 error   Loss 100% at 108_x"


@pytest.mark.django_db(transaction=True)
def test_a_file_of_what_is_sought(run: Run) -> None:
    _, text = download(reverse("run_log", args=[run.pk]) + "?q=loss")
    assert len(text.splitlines()) == 60
