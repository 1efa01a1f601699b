"""A worker and a web process of a site, to be started, stopped, frozen and killed."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

from experiments.models import Worker
from tests.running import free_port

from .person import Client
from .processes import family, kill_all, spawn, until, words_of

if TYPE_CHECKING:
    from .site import Site


class Process:
    """What a worker and the web have in common."""

    def __init__(self, site: Site, name: str, env: dict[str, str]) -> None:
        self.site, self.name, self.env = site, name, env
        self.file = site.home / "logs" / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.said_before = 0  # characters of the log that are an earlier start's

    def _spawn(self, argv: list[str]) -> None:
        assert not self.alive, f"{self.name} runs already"
        self.said_before = len(self.log())
        self.process = spawn(argv, self.file, self.site.env | self.env)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process, f"{self.name} was never started"
        return self.process.pid

    def family(self) -> list[psutil.Process]:
        """It and all below it: a worker's pool processes and engines."""
        return family(self.pid)

    def kill(self, number: int = signal.SIGKILL, seconds: float = 60.0) -> None:
        """The signal to its main process alone, and its end awaited. Its children are its own affair."""
        assert self.process
        self.process.send_signal(number)
        self.process.wait(timeout=seconds)

    def signal(self, number: int) -> None:
        """The signal to its main process, without waiting."""
        assert self.process
        self.process.send_signal(number)

    def stop_process(self) -> None:
        """SIGSTOP to it and all below it, as when a machine hangs or sleeps. `cont` wakes them."""
        for one in self.family():
            one.suspend()

    def cont(self) -> None:
        for one in reversed(self.family()):
            one.resume()

    def log(self) -> str:
        """All it ever wrote."""
        return self.file.read_text(errors="replace") if self.file.exists() else ""

    def says(self, words: str) -> bool:
        """Whether it wrote these words since its last start."""
        return words in self.log()[self.said_before :]

    def close(self) -> None:
        if self.alive:
            kill_all(self.family())
        if self.process:
            self.process.wait(timeout=20)


class WorkerProcess(Process):
    """`celery worker` as the stack starts it; named `<name>@test` in the database."""

    def __init__(self, site: Site, name: str, queues: str, concurrency: int, env: dict[str, str]) -> None:
        super().__init__(site, name, {"KDWEB_PROCESS": "worker"} | env)
        self.queues, self.concurrency = queues, concurrency
        self.node = f"{name}@test"

    def start(self, ready: bool = True) -> WorkerProcess:
        """`ready`: wait until it has joined the broker. That it is announced is `announced`'s to say."""
        argv = [sys.executable, "-m", "celery", "-A", "kdweb", "worker", "-n", self.node]
        argv += ["-c", str(self.concurrency), "-Q", self.queues, "--loglevel", "INFO"]
        self._spawn([*argv, "--without-gossip", "--without-mingle"])
        if ready:
            self.site.wait_for(lambda: self.says(" ready."), 120)
        return self

    def announced(self, seconds: float = 90) -> WorkerProcess:
        """Waits until its row is there: the catalogue of methods and networks is published then."""
        self.site.wait_for(lambda: Worker.objects.filter(name=self.node).exists(), seconds)
        return self

    def terminate(self, seconds: float = 60.0) -> None:
        """As a deployment does: SIGTERM, and its end."""
        self.kill(signal.SIGTERM, seconds)

    def pool_children(self) -> list[psutil.Process]:
        """Celery's pool processes: each holds one task."""
        children = psutil.Process(self.pid).children()
        return [one for one in children if "celery" in words_of(one)]

    def engines(self) -> list[psutil.Process]:
        """Every training process below it, at work or spare, oldest first."""
        engines = [one for one in self.family() if "worker.distill" in words_of(one)]
        serving = [one for one in engines if "catalogue" not in words_of(one)]
        return sorted(serving, key=lambda one: float(one.create_time()))

    def engine(self) -> psutil.Process:
        """The one at work while a run is on: it was the spare before its spare was started."""
        return self.engines()[0]


class WebProcess(Process):
    """uvicorn as the stack starts it."""

    def __init__(self, site: Site, env: dict[str, str]) -> None:
        super().__init__(site, "web", {"KDWEB_PROCESS": "web"} | env)
        self.port = free_port()

    def start(self, ready: bool = True) -> WebProcess:
        argv = [sys.executable, "-m", "uvicorn", "kdweb.asgi:application", "--host", "127.0.0.1"]
        argv += ["--port", str(self.port), "--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
        self._spawn([*argv, "--log-level", "warning", "--timeout-graceful-shutdown", "3"])
        if ready:
            until(self.answers, 120, "the web process answers")
        return self

    def restart(self, number: int = signal.SIGKILL) -> WebProcess:
        if self.alive:
            self.kill(number)
        return self.start()

    def answers(self) -> bool:
        assert self.alive, self.log()[-5000:]
        try:
            return self.stranger().get("/healthz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def stranger(self) -> Client:
        """Somebody who is not logged in."""
        return Client(self.port)

    def client(self, name: str = "ann", role: str | None = "member", **values: bool) -> Client:
        """Somebody who has logged in at the form; made where they do not exist (see Site.person)."""
        self.site.person(name, role, **values)
        return self.stranger().log_in(name)

    def memory(self) -> int:
        """Bytes of its resident memory."""
        return int(psutil.Process(self.pid).memory_info().rss)
