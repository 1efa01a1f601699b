"""The whole of kdweb on one machine: Redis, control worker, a run worker for each device, and the web."""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.contrib.staticfiles.finders import get_finders
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from kdweb import embedded_redis, paths
from kdweb.supervise import Say, Service, StackError, Supervisor, end_leftovers, only_instance

ADMIN = "admin"


@dataclass(frozen=True)
class Site:
    """What a person, or a script in their place, needs to get in."""

    url: str
    password: str | None  # of the user `admin`; known at the first start only


def run_stack(
    on_ready: Callable[[Site], int | None] | None = None, *, port: int | None = None, say: Say
) -> int:
    """Runs until Ctrl-C and returns the exit code.

    `on_ready` is called in a thread once everything answers; a number it returns ends it all with that code.
    """
    os.umask(0o077)  # what runs leave behind is this user's alone
    port = port or settings.KDWEB_PORT
    url = f"http://localhost:{port}"
    folder = paths.make_private(paths.runtime_dir(settings.KDWEB_HOME))
    with only_instance(settings.KDWEB_HOME, {"url": url}):
        end_leftovers(folder / "children.json")
        refuse_taken(port)
        say(f"kdweb · data in {settings.KDWEB_HOME}")
        stages = [*broker(folder, say), [*workers(), web(port)]]
        # A script that is called when all is ready brings a project of its own.
        site = Site(url, prepare(say, with_project=on_ready is None))
        collect_static()

        def ready() -> int | None:
            say(f"\nkdweb is ready: {url}")
            if site.password:
                say(f"    user {ADMIN}, password {site.password}    (not shown again)")
            say("Ctrl-C stops everything.\n")
            return on_ready(site) if on_ready else None

        return Supervisor(stages, folder, settings.KDWEB_LOGS, say).run(ready)


# --- Before anything runs ---------------------------------------------------------------------------------
def prepare(say: Say, *, with_project: bool = True) -> str | None:
    """The database's tables, the first user and project. Returns that user's password if just made."""
    try:
        call_command("migrate", interactive=False, verbosity=0)
        say(f"✓ database ({connection.vendor})")
        password = first_admin()
        if with_project:
            first_project()
    finally:
        connection.close()
    if password:
        say(f"✓ first user: {ADMIN}, password {password}    (change it in the admin)")
    return password


def collect_static() -> None:
    """Only when a source file has changed: hashing and compressing takes seconds."""
    if settings.DEBUG:
        return  # served from their sources
    digest = hashlib.sha256()
    for finder in get_finders():
        for path, storage in finder.list([]):
            found = os.stat(storage.path(path))
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    mark = Path(settings.STATIC_ROOT) / ".sources"
    if not mark.exists() or mark.read_text() != digest.hexdigest():
        call_command("collectstatic", interactive=False, verbosity=0)
        mark.write_text(digest.hexdigest())


def first_admin() -> str | None:
    """Where there is no administrator yet, makes one, with KDWEB_ADMIN_PASSWORD or a random password."""
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return None
    password = os.environ.get("KDWEB_ADMIN_PASSWORD") or secrets.token_urlsafe(12)
    try:
        validate_password(password)
    except ValidationError as error:
        raise StackError(f"KDWEB_ADMIN_PASSWORD cannot be used: {' '.join(error.messages)}") from error
    user = get_user_model()(username=ADMIN, is_staff=True, is_superuser=True)
    user.set_password(password)
    user.save()
    return password


def first_project() -> None:
    """Where there is no project yet, makes one: a newcomer's next page is work, not administration."""
    from experiments.models import Membership, Project, Role

    if Project.objects.exists():
        return
    admin = get_user_model()._default_manager.filter(is_superuser=True).order_by("pk")[0]
    project = Project.objects.create(name="First project", slug="first-project")
    Membership.objects.create(project=project, user_id=admin.pk, role=Role.MAINTAINER)


def refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise StackError(
                f"Port {port} cannot be used ({error}): another program listens there. "
                "Set KDWEB_PORT (or --port) to a free one."
            ) from error


# --- The services -----------------------------------------------------------------------------------------
def broker(folder: Path, say: Say) -> list[list[Service]]:
    """Redis as a stage of its own, unless the environment names one that runs already."""
    url = settings.KDWEB_REDIS_URL
    if os.environ.get("KDWEB_REDIS_URL") or os.environ.get("KDWEB_REDIS_URL_FILE"):
        if trouble := embedded_redis.trouble(url):
            raise StackError(f"The Redis of KDWEB_REDIS_URL does not answer: {trouble}.")
        if policy := embedded_redis.evicts(url):
            words = embedded_redis.EVICTS.format(policy=policy)
            say(f"! The Redis of KDWEB_REDIS_URL: {words}. {embedded_redis.NO_EVICTION}.")
        return []
    server = embedded_redis.find_server()
    if server is None:
        raise StackError(embedded_redis.MISSING)
    argv = embedded_redis.command(server, folder / "redis.sock", settings.KDWEB_HOME / "redis")
    return [[Service("redis", argv, lambda: not embedded_redis.trouble(url), stop_rank=2, grace=1.5)]]


def gpus() -> list[str]:
    """The UUIDs of the NVIDIA GPUs that this process may use, by the driver's own tool: no torch here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]
    try:
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.splitlines() if line.strip()]


def celery_worker(name: str, queues: str, *more: str) -> list[str]:
    argv = [sys.executable, "-m", "celery", "-A", "kdweb", "worker", "--loglevel", "INFO"]
    return [*argv, "-n", f"{name}@%h", "-Q", queues, *more]


def workers() -> list[Service]:
    """The control worker, and one run worker for each GPU, or one for the CPU."""
    as_worker = {"KDWEB_PROCESS": "worker", "PYTHONUNBUFFERED": "1"}
    control = celery_worker("control", "control", "-c", "2")
    services = [Service("control", control, control_answers, as_worker, stop_rank=0, grace=2.0)]
    lone = ("-c", "1", "--without-gossip", "--without-mingle")
    # A machine with a GPU takes CPU work as well, but never the other way round.
    devices = [(f"gpu{i}", "gpu,cpu", {"CUDA_VISIBLE_DEVICES": uuid}) for i, uuid in enumerate(gpus())]
    for name, queues, env in devices or [("cpu0", "cpu", {})]:
        argv = celery_worker(name, queues, *lone)
        ready = worker_announced(name)
        services.append(
            Service(f"worker-{name}", argv, ready, as_worker | env, 1, grace=5.0, ready_within=180)
        )
    return services


def web(port: int) -> Service:
    argv = [
        sys.executable,
        "-m",
        "uvicorn",
        "kdweb.asgi:application",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    argv += ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off", "--log-level", "warning"]
    argv += ["--timeout-graceful-shutdown", "3"]  # open event streams would hold it for ever
    return Service("web", argv, lambda: web_answers(port), {"KDWEB_PROCESS": "web"}, stop_rank=1, grace=4.5)


# --- Do they answer? --------------------------------------------------------------------------------------
def web_answers(port: int) -> bool:
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        asked.request("GET", "/healthz")
        return asked.getresponse().status == 200
    except OSError:
        return False
    finally:
        asked.close()


def control_answers() -> bool:
    from kdweb.celery import app

    return bool(app.control.ping(destination=[f"control@{socket.gethostname()}"], timeout=0.5))


def worker_announced(name: str) -> Callable[[], bool]:
    """Ready is a run worker that has published what it offers: the forms are made of it."""
    since: list[datetime] = []

    def announced() -> bool:
        from experiments.models import Method, Worker

        if not since:
            since.append(timezone.now())
        fresh = Worker.objects.filter(name__startswith=f"{name}@", heartbeat__gte=since[0])
        try:
            return fresh.exists() and Method.objects.filter(available=True).exists()
        finally:
            connection.close()
            time.sleep(0.1)

    return announced
