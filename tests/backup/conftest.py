"""A site in a folder, with rows and files of every kind, and what is done to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.utils import ConnectionHandler
from django.test import override_settings
from django.utils import timezone

from experiments.backup import FOLDERS, manifest, stored
from experiments.models import Artifact, Run, Upload, Worker
from tests.experiments.make import a_dataset, a_project, a_run, a_teacher


@contextmanager
def at(home: Path, config: dict[str, Any] | None = None) -> Iterator[Path]:
    """The ORM and the file store are this home's for as long as the block lasts."""
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": settings.SQLITE_OPTIONS}
    config = config or sqlite | {"NAME": str(home / "kdweb.sqlite3")}
    usual = connections["default"]
    connections["default"] = ConnectionHandler({"default": config}).create_connection("default")
    for folder in FOLDERS:
        (home / folder).mkdir(parents=True, exist_ok=True)
    try:
        with override_settings(KDWEB_DATA=home):
            yield home
    finally:
        connections["default"].close()
        connections["default"] = usual


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Iterator[Path]:
    """An empty database with all tables, to copy."""
    with django_db_blocker.unblock(), at(tmp_path_factory.mktemp("migrated")) as home:
        call_command("migrate", verbosity=0)
        connections["default"].close()
        yield home / "kdweb.sqlite3"


@pytest.fixture
def home(migrated: Path, tmp_path: Path, django_db_blocker: Any) -> Iterator[Path]:
    """A site with a dataset, a trained and an uploaded teacher, a running run and an upload."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(migrated, folder / "kdweb.sqlite3")
    with django_db_blocker.unblock(), at(folder):
        furnish()
        yield folder


def write(path: str, content: bytes) -> str:
    full = stored.root() / path
    full.parent.mkdir(parents=True, exist_ok=True)
    full.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def artifact(run: Run, kind: str, step: int, name: str, content: bytes) -> Artifact:
    path = f"runs/{run.pk}/{run.fence}/{name}"
    digest = write(path, content)
    values = {"sha256": digest, "bytes": len(content), "step": step, "fence": run.fence}
    return Artifact.objects.create(run=run, kind=kind, path=path, **values)


def furnish() -> None:
    info = {"sizes": {"train": 3, "val": 2, "test": 0}, "samples": {"0": ["samples/0-0.png"]}}
    data = a_dataset(info=info, fingerprint="f" * 64)
    write(f"datasets/{data.pk}/meta.json", json.dumps({"fingerprint": "f" * 64}).encode())
    for name in ("train_images.npy", "train_labels.npy", "val_images.npy", "val_labels.npy"):
        write(f"datasets/{data.pk}/{name}", name.encode() * 100)
    write(f"datasets/{data.pk}/samples/0-0.png", b"png")
    done = a_run(name="done", status="succeeded", fence=1)
    weights = artifact(done, "student", 9, "student.safetensors", b"weights" * 1000)
    a_teacher("trained", weights=weights.path, sha256=weights.sha256)
    a_teacher("uploaded", weights="teachers/7.safetensors", sha256=write("teachers/7.safetensors", b"seven"))
    lease = timezone.now() + timedelta(hours=1)
    run = a_run(name="running", status="running", fence=2, lease_owner="w1", lease_expires=lease)
    for step in (10, 20):
        artifact(run, "resume", step, f"resume-{step}.pt", b"state" * step)
    write(f"runs/{run.pk}/2/.writing-resume", b"half")
    Worker.objects.create(name="w1", host="old", queue="cpu", run=run)
    for status in ("checking", "receiving"):
        values = {"purpose": "dataset", "filename": f"{status}.zip", "size": 4, "received": 4}
        sent = Upload.objects.create(project=a_project(), status=status, **values)
        write(f"uploads/{sent.pk}", b"zip!")


def manage(*argv: str) -> tuple[int, str]:
    """(exit code, what it said); a refusal is code 1 as on the command line."""
    said = StringIO()
    try:
        call_command(*argv, stdout=said)
    except CommandError as error:
        return 1, str(error)
    except SystemExit as left:
        return int(left.code or 0), said.getvalue()
    return 0, said.getvalue()


def contents(home: Path) -> dict[str, bytes]:
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for folder in FOLDERS
        for path in (home / folder).rglob("*")
        if path.is_file()
    }


def backed_up(home: Path) -> Path:
    target = home.parent / "backup"
    code, said = manage("backup", str(target))
    assert code == 0, said
    return target


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(target: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = target / manifest.NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
