"""A person at a browser: opens pages, waits for what they show, remembers what the console complained of."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

PATIENCE = 30.0  # seconds for a page, on a machine that is busy with other work
TRAINING = 150.0  # seconds for a short training, its start included
TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
    console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""


class Visitor:
    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        # Without motion a colour is what it will be at once, and can be judged.
        size = {"width": 1440, "height": 900}
        self.context = browser.new_context(viewport=size, reduced_motion="reduce", **options)
        self.context.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        self.context.add_init_script(TELL_VIOLATIONS)
        self.complaints: list[str] = []
        self.expected: list[int] = []
        self.context.on("console", self._heard)
        self.context.on("weberror", lambda error: self._complain(str(error.error)))
        self.page: Page = self.context.new_page()

    def _heard(self, message: ConsoleMessage) -> None:
        known = any(f"status of {status} " in message.text for status in self.expected)
        if message.type in ("error", "warning") and not known:
            self._complain(f"{message.text} ({message.location['url']})")

    def _complain(self, text: str) -> None:
        self.complaints.append(f"{self.page.url}: {text}")

    @contextmanager
    def answered(self, status: int) -> Iterator[None]:
        """Chromium's console calls every answer of 400 or more an error: here it is what should come."""
        self.expected.append(status)
        yield
        self.page.evaluate("0")  # whatever the console still has to say is said by now
        self.expected.remove(status)

    def log_in(self, name: str, password: str) -> None:
        self.open("/login/")
        self.page.get_by_label("Username").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    @property
    def path(self) -> str:
        return self.page.url.removeprefix(self.url)

    def field(self, label: str) -> Locator:
        """The field of the page with this label, whatever stands behind it (optional, a unit)."""
        named = re.compile(rf"^\s*{re.escape(label)}\b")
        return self.page.locator("main").get_by_label(named).first

    def error(self, label: str) -> Locator:
        """What is said at the field."""
        place = self.field(label).locator("xpath=ancestor::div[contains(@class, 'invalid')][1]")
        return place.locator(".error")

    def heading(self, words: str) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(words)

    def until(self, script: str, seconds: float = PATIENCE) -> Any:
        """Waits for a script to give something true; playwright's own way needs eval, which is forbidden."""
        deadline = time.monotonic() + seconds
        while not (found := self.page.evaluate(script)):
            assert time.monotonic() < deadline, f"not in {seconds} s: {script}\n{self.complaints}"
            time.sleep(0.05)
        return found

    def state(self, wanted: str, seconds: float = TRAINING) -> None:
        """Waits for the state that a run's page shows."""
        shown = self.page.locator(f"#run-summary[data-state={wanted}]")
        expect(shown).to_be_visible(timeout=seconds * 1000)

    def points(self, chart: str, trace: str) -> list[float]:
        """The x of the points that Plotly holds for a trace."""
        script = f"""(() => {{
            const plot = document.querySelector('[data-chart="{chart}"] .chart-plot');
            const found = (plot?.data ?? []).filter((one) => one.name === "{trace}").at(-1);
            return found ? Array.from(found.x) : [];
        }})()"""
        return list(self.page.evaluate(script))

    def steps(self, run: int, series: str) -> list[int]:
        """The steps of a curve as the API exports them."""
        answer = self.page.request.get(f"{self.url}/api/runs/{run}/series.csv?names={series}")
        assert answer.ok
        return [int(row["step"]) for row in csv.DictReader(io.StringIO(answer.text()))]

    def runs(self) -> list[dict[str, Any]]:
        """The project's runs, newest first, as the API lists them."""
        return list(self.page.request.get(f"{self.url}/api/runs").json()["items"])
