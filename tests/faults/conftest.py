"""Sites to break. `site` is shared by tests that leave it healthy; `make_site` is for the violent ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .person import Client
from .site import Site
from .site import make_site as a_new_site
from .templates import Template
from .workers import WebProcess


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    template = Template(tmp_path_factory.mktemp("template"))
    yield template
    template.close()


@pytest.fixture(scope="package")
def site(template: Template, django_db_blocker: Any) -> Iterator[Site]:
    """SQLite, Redis and one worker `cpu0`. Whoever uses it leaves it as it was found."""
    with django_db_blocker.unblock(), a_new_site(template) as site:
        site.worker("cpu0").start().announced()
        yield site


@pytest.fixture
def make_site(template: Template, django_db_blocker: Any) -> Iterator[Callable[..., Site]]:
    """Sites of this test alone, without workers: make_site(), make_site("postgresql", max_connections=20)."""
    with django_db_blocker.unblock(), ExitStack() as stack:
        yield lambda *args, **values: stack.enter_context(a_new_site(template, *args, **values))


@pytest.fixture
def fresh_site(make_site: Callable[..., Site]) -> Site:
    """SQLite and Redis, no worker yet."""
    return make_site()


@pytest.fixture
def postgres_site(make_site: Callable[..., Site]) -> Site:
    """PostgreSQL and Redis, no worker yet."""
    return make_site("postgresql")


@pytest.fixture(scope="module")
def office(template: Template, django_db_blocker: Any) -> Iterator[Site]:
    """SQLite, Redis and no worker: what is submitted waits, and runs only do what the test says."""
    with django_db_blocker.unblock(), a_new_site(template) as site:
        yield site


@pytest.fixture(scope="module")
def web(office: Site) -> WebProcess:
    return office.web().start()


@pytest.fixture(scope="module")
def ann(web: WebProcess) -> Client:
    """Somebody of the project, logged in at the office."""
    return web.client("ann")
