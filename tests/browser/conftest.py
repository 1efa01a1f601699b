"""Chromium, and a whole kdweb as a newcomer has it. Both live as long as one file of tests needs them: an
open playwright keeps an event loop in this thread, and Django would refuse its database to later tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.site import PASSWORD, Site
from tests.browser.visitor import Visitor
from tests.running import Stack

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there: install it (Debian: apt install chromium)")
    # Chromium's sandbox refuses to start for root, which is what containers run tests as.
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`manage.py up` in an empty folder, with the administrator's password given."""
    stack = Stack(tmp_path_factory.mktemp("newcomer") / "home", KDWEB_ADMIN_PASSWORD=PASSWORD)
    try:
        stack.wait_for("Ctrl-C stops everything")
        yield stack
    finally:
        stack.end()


@pytest.fixture(scope="module")
def visitor(browser: Browser, stack: Stack) -> Iterator[Visitor]:
    """The person who walks; not logged in yet."""
    visitor = Visitor(browser, f"http://localhost:{stack.port}")
    yield visitor
    visitor.context.close()


@pytest.fixture(scope="module")
def ana(browser: Browser, site: Site) -> Iterator[Visitor]:
    """A member of the team, logged in to the `site` of the test's own file."""
    visitor = Visitor(browser, site.url)
    visitor.log_in("ana", PASSWORD)
    visitor.heading("Team")
    yield visitor
    visitor.context.close()
