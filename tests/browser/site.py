"""A web process of its own, with a real Redis and no worker, and a person's tab on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kdweb import embedded_redis

CHECKOUT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"


@dataclass
class Site:
    """A web process of its own, its data folder, and pairs of queued runs (control, student)."""

    folder: Path
    port: int
    environment: dict[str, str]
    pairs: list[tuple[int, int]] = field(default_factory=list)
    web: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def manage(self, *words: str, text: str = "") -> str:
        command = [sys.executable, "manage.py", *words]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=self.environment, input=text, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_web(self) -> None:
        uvicorn = [sys.executable, "-m", "uvicorn", "kdweb.asgi:application", "--port", str(self.port)]
        quiet = ["--log-level", "warning", "--timeout-graceful-shutdown", "1"]
        with open(self.folder / "web.log", "ab") as log:
            self.web = subprocess.Popen([*uvicorn, *quiet], cwd=CHECKOUT, env=self.environment, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=2).close()
                return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "web.log").read_text()
                time.sleep(0.1)

    def stop_web(self) -> None:
        if self.web:
            self.web.terminate()
            self.web.wait(timeout=20)

    def train(self, run: int, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.browser.fake_training", str(run), *words]
        return subprocess.Popen(
            command, cwd=CHECKOUT, env=self.environment, stdout=subprocess.PIPE, text=True, bufsize=1
        )


@contextmanager
def running(folders: pytest.TempPathFactory, rows: str) -> Iterator[Site]:
    """A site with the rows that a script makes; it prints pairs of runs, if there are any."""
    folder = folders.mktemp("site")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with embedded_redis.running(folders.mktemp("redis")) as redis_url:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KDWEB_")}
        environment |= {
            "KDWEB_HOME": str(folder / "home"),
            "KDWEB_REDIS_URL": redis_url,
            "DJANGO_SETTINGS_MODULE": "kdweb.settings",
        }
        site = Site(folder, port, environment)
        site.manage("migrate", "-v0")
        site.manage("collectstatic", "--noinput", "-v0")
        printed = site.manage("shell", "-v0", "-c", rows)
        site.pairs = [(int(a), int(b)) for a, b in (line.split() for line in printed.splitlines() if line)]
        site.start_web()
        try:
            yield site
        finally:
            site.stop_web()


class Tab:
    """A page of somebody who has logged in; keeps what its console complained about."""

    def __init__(self, browser: Any, site: Site, **options: Any) -> None:
        self.site = site
        self.context = browser.new_context(viewport={"width": 1440, "height": 1800}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"{site.url}/login/")
        self.page.fill("[name=username]", "ana")
        self.page.fill("[name=password]", PASSWORD)
        self.page.press("[name=password]", "Enter")
        self.page.wait_for_url(f"{site.url}/")

    def open(self, path: str) -> None:
        self.page.goto(self.site.url + path)

    def until(self, script: str, seconds: float = 30) -> Any:
        """Waits for a script to give something true (page.wait_for_function would need eval)."""
        deadline = time.monotonic() + seconds
        while not (found := self.page.evaluate(script)):
            assert time.monotonic() < deadline, f"still not after {seconds} s: {script}\n{self.complaints}"
            time.sleep(0.02)
        return found

    def points(self, chart: str, trace: str) -> list[float]:
        """The x of the points that Plotly holds for a trace."""
        script = f"""(() => {{
            const plot = document.querySelector('[data-chart="{chart}"] .chart-plot');
            const found = (plot?.data ?? []).filter((one) => one.name === "{trace}").at(-1);
            return found ? Array.from(found.x) : [];
        }})()"""
        return list(self.page.evaluate(script))

    def until_points(self, chart: str, trace: str, last: int, seconds: float = 30) -> list[float]:
        deadline = time.monotonic() + seconds
        while not (found := self.points(chart, trace)) or found[-1] < last:
            assert time.monotonic() < deadline, (found[-3:], last, self.complaints)
            time.sleep(0.02)
        return found
