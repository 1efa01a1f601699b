"""`manage.py doctor`: what was found here, what is wrong, and what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, connection

from experiments import schema
from experiments.models import Worker
from kdweb import embedded_redis
from kdweb.stack import gpus, web_answers
from kdweb.staticfiles import plotly_folder

GOOD, WARNING, BAD = "✓", "!", "✗"
GIB = 1024**3
# Asked of a child process: this one stays without torch.
ENGINE = """
import json, torch
from worker.distill import methods, runtime
devices = [runtime.describe_device(runtime.pick_device(name)) for name in runtime.available_devices()]
found = methods.discover()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "devices": devices,
    "torchvision": runtime.torchvision_state(), "methods": sorted(found.methods), "broken": found.broken}))
"""


class Finding(NamedTuple):
    mark: str
    subject: str
    found: str
    fix: str = ""


class Command(BaseCommand):
    help = "Shows what kdweb found on this machine, and what is wrong. Exit code 1 if something is."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        findings = [finding for check in CHECKS for finding in careful(check)]
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            self.stdout.write(f"{finding.mark} {finding.subject:<{width}}  {finding.found}")
            if finding.fix:
                self.stdout.write(f"  {'':<{width}}  → {finding.fix}")
        bad = sum(finding.mark == BAD for finding in findings)
        warnings = sum(finding.mark == WARNING for finding in findings)
        self.stdout.write(f"\n{bad} wrong, {warnings} to know about." if bad + warnings else "\nAll is well.")
        sys.exit(1 if bad else 0)


def careful(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that breaks is itself a finding; the others go on."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(
            BAD, check.__name__, f"{type(error).__name__}: {error}", "Report this with the line above."
        )


def packages() -> Iterator[Finding]:
    names = ("django", "celery", "redis", "uvicorn", "plotly")
    yield Finding(GOOD, "python", f"{sys.version.split()[0]} at {sys.executable}")
    yield Finding(GOOD, "packages", ", ".join(f"{name} {version(name)}" for name in names))


def engine() -> Iterator[Finding]:
    if find_spec("torch") is None:
        fix = "To train on this machine: pip install -e '.[worker]'"
        yield Finding(WARNING, "engine", "torch is not installed: this is a web machine only", fix)
        return
    child = subprocess.run(
        [sys.executable, "-c", ENGINE], capture_output=True, text=True, cwd=settings.BASE_DIR, timeout=180
    )
    if child.returncode != 0:
        reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding(
            BAD, "engine", f"does not start: {reason}", "Install it anew: pip install -e '.[worker]'"
        )
        return
    state = json.loads(child.stdout.splitlines()[-1])
    yield Finding(GOOD, "engine", f"torch {state['torch']}, methods {', '.join(state['methods'])}")
    for key, problem in state["broken"].items():
        yield Finding(
            BAD, "method", f"{key} cannot be loaded: {problem}", f"Mend worker/distill/methods/{key}.py"
        )
    yield torchvision(state["torchvision"])
    yield Finding(GOOD, "devices", "; ".join(state["devices"]))
    if gpus() and not state["cuda"]:
        fix = "Install the CUDA build of the same version, see pytorch.org/get-started"
        yield Finding(WARNING, "gpu", f"{len(gpus())} NVIDIA GPU, but torch is a CPU build", fix)


def torchvision(state: str) -> Finding:
    if "not installed" in state:
        return Finding(BAD, "torchvision", state, "pip install -e '.[worker]'")
    if "without" in state:
        fix = "Nothing need be done; to have them, install torch and torchvision from the same index"
        return Finding(WARNING, "torchvision", state, fix)
    return Finding(GOOD, "torchvision", state)


def storage() -> Iterator[Finding]:
    home: Path = settings.KDWEB_HOME
    free = shutil.disk_usage(home).free / GIB
    mark = BAD if free < 1 else WARNING if free < 10 else GOOD
    fix = "" if mark == GOOD else "Free some space, or move KDWEB_HOME: checkpoints and caches need room"
    yield Finding(mark, "storage", f"{home}, {free:.1f} GiB free", fix)
    if not os.access(home, os.W_OK | os.X_OK):
        yield Finding(BAD, "storage", f"{home} cannot be written to", f"chown it to user {os.getuid()}")
    for path, wanted in ((home, 0o700), (home / "secret-key", 0o600)):
        if path.exists() and path.stat().st_mode & 0o077:
            mode = path.stat().st_mode & 0o777
            mark = BAD if path.is_file() else WARNING
            yield Finding(mark, "storage", f"{path} is open to others ({mode:o})", f"chmod {wanted:o} {path}")


def teacher_cache() -> Iterator[Finding]:
    folder, budget = settings.KDWEB_TEACHER_CACHE, settings.KDWEB_TEACHER_CACHE_BYTES
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not budget:
        yield Finding(GOOD, "cache", "KDWEB_TEACHER_CACHE_BYTES=0: teachers' outputs are not kept")
        return
    found = f"teachers' outputs {used / GIB:.2f} of {budget / GIB:.2f} GiB in {folder}"
    yield Finding(GOOD, "cache", found)


def database() -> Iterator[Finding]:
    url = connection.settings_dict
    try:
        missing, newer = schema.misfit()
    except DatabaseError as error:
        reason = str(error).splitlines()[0]
        yield Finding(
            BAD, "database", f"{connection.vendor} does not answer: {reason}", "Check KDWEB_DATABASE_URL"
        )
        return
    where = url["NAME"] if connection.vendor == "sqlite" else f"{url['NAME']} at {url['HOST']}"
    if missing:
        fix = "`manage.py up` applies them, or: manage.py prepare"
        yield Finding(WARNING, "database", f"{where}: {len(missing)} migrations to apply", fix)
    elif newer:
        yield Finding(BAD, "database", f"{where} is newer than this code ({newer[-1]})", "Update this code")
    else:
        yield Finding(GOOD, "database", f"{connection.vendor}, {where}")
    if connection.vendor == "sqlite" and sqlite3.sqlite_version_info < (3, 51, 3):
        fix = "Rare. Back up daily (manage.py backup), or use PostgreSQL for a team"
        found = f"{sqlite3.sqlite_version} can, rarely, damage a WAL database under concurrent checkpoints"
        yield Finding(WARNING, "sqlite", found, fix)


def broker() -> Iterator[Finding]:
    trouble = embedded_redis.trouble(settings.KDWEB_REDIS_URL)
    if os.environ.get("KDWEB_REDIS_URL") or os.environ.get("KDWEB_REDIS_URL_FILE"):
        if trouble:
            yield Finding(
                BAD, "redis", f"KDWEB_REDIS_URL does not answer: {trouble}", "Start it, or correct the URL"
            )
        elif policy := embedded_redis.evicts(settings.KDWEB_REDIS_URL):
            words = embedded_redis.EVICTS.format(policy=policy)
            yield Finding(WARNING, "redis", words, embedded_redis.NO_EVICTION)
        else:
            yield Finding(GOOD, "redis", "the one of KDWEB_REDIS_URL answers")
        return
    server = embedded_redis.find_server()
    if server is None:
        yield Finding(BAD, "redis", "no server found", embedded_redis.MISSING)
        return
    state = "not started" if trouble else "answers"
    yield Finding(GOOD, "redis", f"private, {server} {embedded_redis.version(server)}, {state}")


def processes() -> Iterator[Finding]:
    fix = "Start everything: manage.py up"
    if web_answers(settings.KDWEB_PORT):
        yield Finding(GOOD, "web", f"answers at http://localhost:{settings.KDWEB_PORT}")
    else:
        yield Finding(WARNING, "web", f"nothing answers at port {settings.KDWEB_PORT}", fix)
    try:
        alive = [
            f"{worker.name} ({worker.device or worker.device_kind})" for worker in Worker.objects.alive()
        ]
    except DatabaseError:
        return  # no tables yet: told above
    if alive:
        yield Finding(GOOD, "workers", ", ".join(alive))
    else:
        yield Finding(WARNING, "workers", "none is alive: runs wait in the queue", fix)


def browser() -> Iterator[Finding]:
    bundle = plotly_folder() / "plotly.min.js"
    if bundle.exists():
        yield Finding(GOOD, "charts", f"plotly.min.js, {bundle.stat().st_size / 1e6:.1f} MB")
    else:
        yield Finding(
            BAD,
            "charts",
            f"{bundle} is missing",
            f"pip install --force-reinstall plotly=={version('plotly')}",
        )
    if settings.DEBUG:
        yield Finding(
            WARNING,
            "debug",
            "KDWEB_DEBUG=1 shows code and settings to anybody",
            "Unset it outside development",
        )


CHECKS = (packages, engine, storage, teacher_cache, database, broker, processes, browser)
