"""Backups: what is in one, what is refused, what the check says; and the drill, with everything real."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
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
from django.db.migrations.recorder import MigrationRecorder
from django.db.utils import ConnectionHandler
from django.test import override_settings
from django.utils import timezone

from experiments.backup import FOLDERS, database, make, manifest, stored
from experiments.models import Artifact, Dataset, Run, Teacher, Upload, Worker
from experiments.models.catalogue import Readiness
from tests.experiments.make import a_dataset, a_project, a_run, a_teacher
from tests.running import ROOT, environment


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


# --- What is in it ----------------------------------------------------------------------------------------
def test_a_restored_site_has_the_rows_and_the_files_that_rows_name(home: Path, tmp_path: Path) -> None:
    target = backed_up(home)
    before = contents(home)
    runs = list(Run.objects.order_by("pk").values("pk", "name", "status", "fence", "created"))
    with at(tmp_path / "new") as new:
        code, said = manage("restore", str(target))
        assert code == 0, said
        assert list(Run.objects.order_by("pk").values("pk", "name", "status", "fence", "created")) == runs
        receiving = str(Upload.objects.get(status="receiving").pk)
        left_out = {path for path in before if ".writing-" in path or receiving in path}
        assert contents(new) == {path: before[path] for path in before if path not in left_out}
        assert not list(new.glob(".restoring")), "nothing is left aside"
    assert not list((home / ".backing-up").iterdir())
    assert target.stat().st_mode & 0o777 == 0o700


def test_nobody_holds_anything_after_a_restore(home: Path, tmp_path: Path) -> None:
    target = backed_up(home)
    with at(tmp_path / "new"):
        manage("restore", str(target))
        run = Run.objects.get(name="running")
        assert run.status == "running"
        assert run.lease_expires <= timezone.now(), "the sweep gives it to a worker"
        assert "Restored from the backup" in run.events.last().text
        assert not Worker.objects.exists()
        assert Upload.objects.get(status="receiving").received == 0


def test_a_checkpoint_dropped_meanwhile_is_no_loss_and_a_newer_one_is_taken(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine writes 30 and drops 10 just before the database is frozen; its rows follow."""
    run = Run.objects.get(name="running")
    usual = database.snapshot

    def snapshot() -> Any:
        artifact(run, "resume", 30, "resume-30.pt", b"thirty")
        (home / f"runs/{run.pk}/2/resume-10.pt").unlink()
        monkeypatch.setattr(database, "snapshot", usual)
        return usual()

    monkeypatch.setattr(database, "snapshot", snapshot)
    target = backed_up(home)
    with at(tmp_path / "new") as new:
        code, said = manage("restore", str(target))
        assert code == 0, said
        assert {path.name for path in (new / f"runs/{run.pk}/2").iterdir()} == {
            f"resume-{step}.pt" for step in (10, 20, 30)
        }


def test_a_file_that_went_before_it_could_be_held_makes_another_round(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All the frozen rows name is gone already: a later moment is taken instead."""
    run, usual, rounds = Run.objects.get(name="running"), database.snapshot, []

    def too_fast(self: Any, one: Any) -> None:
        if rounds or one.run is None:
            hold(self, one)

    @contextmanager
    def snapshot() -> Iterator[Any]:
        with usual() as dump:
            yield dump
        rounds.append(run.pk)

    hold = make.Held.hold
    monkeypatch.setattr(make.Held, "hold", too_fast)
    monkeypatch.setattr(database, "snapshot", snapshot)
    found = manifest.read(backed_up(home))
    assert len(rounds) == 2
    assert (found.missing, f"files/runs/{run.pk}/2/resume-20.pt" in found.files) == ([], True)


def test_without_hard_links_files_are_copied(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    target = backed_up(home)
    monkeypatch.undo()
    with at(tmp_path / "new"):
        assert manage("restore", str(target))[0] == 0


def test_a_file_missing_in_the_site_is_said_and_the_rest_is_saved(home: Path) -> None:
    (home / "teachers/7.safetensors").unlink()
    code, said = manage("backup", str(home.parent / "backup"))
    assert code == 1
    assert "teachers/7.safetensors is missing: weights of the teacher “uploaded”." in said
    assert len(manifest.read(home.parent / "backup").files) > 5


def test_a_symbolic_link_out_of_the_data_folder_is_not_followed(home: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    (home / "teachers/7.safetensors").unlink()
    (home / "teachers/7.safetensors").symlink_to(tmp_path / "secret")
    code, said = manage("backup", str(tmp_path / "backup"))
    assert (code, "is missing" in said) == (1, True)
    assert not (tmp_path / "backup/files/teachers").exists()


def test_writers_do_not_wait_for_the_snapshot_and_are_not_in_it(home: Path, tmp_path: Path) -> None:
    other = sqlite3.connect(home / "kdweb.sqlite3", timeout=0, isolation_level=None)
    with database.snapshot() as dump:
        other.execute("UPDATE experiments_run SET name = 'renamed'")
        assert not Run.objects.filter(name="renamed").exists()
        dump(tmp_path / "dump.sqlite3")
    other.close()
    copy = sqlite3.connect(tmp_path / "dump.sqlite3")
    assert {name for (name,) in copy.execute("SELECT name FROM experiments_run")} == {"done", "running"}
    assert Run.objects.filter(name="renamed").count() == 2


def test_a_backup_of_an_older_version_is_brought_up_to_date(home: Path, tmp_path: Path) -> None:
    target = backed_up(home)
    with at(tmp_path / "old") as old:
        call_command("migrate", "experiments", "0004", verbosity=0)
        connections["default"].close()
        connections["default"].ensure_connection()
        with database.snapshot() as dump:
            (target / "database.sqlite3").unlink()
            dump(target / "database.sqlite3")
        assert old.exists()
    digest = manifest.digest(target / "database.sqlite3").model_dump()
    edit(target, lambda m: m["files"].update({"database.sqlite3": digest}))
    edit(target, lambda m: m["migrations"].update(experiments=["0001_initial"]))
    with at(tmp_path / "new"):
        code, said = manage("restore", str(target))
        assert code == 0, said
        assert MigrationRecorder(connections["default"]).applied_migrations().keys() >= {
            ("experiments", "0005_leases_and_attempts")
        }
        assert not Run.objects.filter(silent_since=None).exists()


def test_a_killed_backup_is_none_and_the_next_one_is_whole(home: Path, tmp_path: Path) -> None:
    os.truncate(home / "teachers/7.safetensors", 100_000_000)
    connections["default"].close()
    argv = [sys.executable, "manage.py", "backup", str(tmp_path / "backup")]
    child = subprocess.Popen(argv, cwd=ROOT, env=environment(home, 0), stdout=subprocess.DEVNULL)
    while not list((tmp_path / "backup.partial").glob("files/*")):
        assert child.poll() is None
        time.sleep(0.001)
    child.kill()
    child.wait()
    assert not (tmp_path / "backup").exists()
    assert "is no whole backup" in manage("restore", str(tmp_path / "backup.partial"))[1]
    code, said = manage("backup", str(tmp_path / "second"))
    assert "7.safetensors is damaged: weights of the teacher" in said
    assert (code, len(list(tmp_path.glob("second/files/*")))) == (1, 4)


# --- What a backup refuses --------------------------------------------------------------------------------
def test_a_folder_that_holds_something_is_not_written_into(home: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup/mine").touch()
    assert manage("backup", str(tmp_path / "backup")) == (
        1,
        f"{tmp_path / 'backup'} is there already: give the name of a new folder.",
    )
    assert os.listdir(tmp_path / "backup") == ["mine"]


def test_what_a_killed_backup_left_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "backup.partial").mkdir()
    code, said = manage("backup", str(tmp_path / "backup"))
    assert (code, "cut short" in said) == (1, True)


def test_a_full_disk_leaves_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    code, said = manage("backup", str(tmp_path / "backup"))
    assert (code, "choose another place" in said) == (1, True)
    assert not list(tmp_path.glob("backup*"))
    assert not list((home / ".backing-up").iterdir())


def test_one_backup_at_a_time(home: Path, tmp_path: Path) -> None:
    with make._alone():
        code, said = manage("backup", str(tmp_path / "backup"))
    assert (code, "Another backup" in said) == (1, True)
    backed_up(home)


# --- What a restore refuses, before it touches anything ---------------------------------------------------
def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(target: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = target / manifest.NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def link_out(target: Path) -> None:
    path = target / "files/teachers/7.safetensors"
    path.rename(target.parent / "elsewhere")
    path.symlink_to(target.parent / "elsewhere")


def rename(name: str) -> Callable[[Path], None]:
    def change(content: dict[str, Any]) -> None:
        content["files"][name] = content["files"].pop("files/teachers/7.safetensors")

    return lambda target: edit(target, change)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no manifest": (lambda t: (t / manifest.NAME).unlink(), "is no whole backup"),
    "half a manifest": (lambda t: os.truncate(t / manifest.NAME, 100), "cannot be read"),
    "manifest of another kind": (lambda t: (t / manifest.NAME).write_text("[1]"), "is damaged"),
    "newer format": (lambda t: edit(t, lambda m: m.update(format=2)), "use a newer kdweb"),
    "unknown field": (lambda t: edit(t, lambda m: m.update(run="rm")), "is damaged: run"),
    "no dump": (lambda t: edit(t, lambda m: m["files"].pop("database.sqlite3")), "names no database"),
    "bit in a file": (lambda t: flip(t / "files/teachers/7.safetensors"), "7.safetensors is damaged"),
    "bit in the database": (lambda t: flip(t / "database.sqlite3"), "database.sqlite3 is damaged"),
    "file gone": (lambda t: (t / "files/teachers/7.safetensors").unlink(), "is missing"),
    "link": (link_out, "symbolic link"),
    "out": (rename("files/teachers/../../../evil"), "no place in a backup"),
    "absolute": (rename("/etc/passwd"), "no place in a backup"),
    "other folder": (rename("files/run/redis.sock"), "no place in a backup"),
    "control character": (rename("files/teachers/a\nb"), "no place in a backup"),
    "other kind": (lambda t: edit(t, other_kind), "is of a postgresql database, this one is sqlite"),
    "newer": (
        lambda t: edit(t, lambda m: m["migrations"]["experiments"].append("9999_later")),
        "made by a newer kdweb",
    ),
}


def other_kind(content: dict[str, Any]) -> None:
    content["database"] = "postgresql"
    content["files"]["database.pgdump"] = content["files"].pop("database.sqlite3")


@pytest.mark.parametrize("name", DAMAGE)
def test_a_restore_refuses(name: str, home: Path, tmp_path: Path) -> None:
    target = backed_up(home)
    damage, words = DAMAGE[name]
    damage(target)
    with at(tmp_path / "new") as new:
        code, said = manage("restore", str(target))
        assert code == 1
        assert words in said
        assert contents(new) == {}
        assert not connections["default"].introspection.table_names()
    assert not (tmp_path / "evil").exists()


def test_a_restore_needs_an_empty_database_and_an_empty_store(home: Path, tmp_path: Path) -> None:
    target, before = backed_up(home), contents(home)
    code, said = manage("restore", str(target))
    assert (code, "kdweb.sqlite3 is not empty" in said) == (1, True)
    assert contents(home) == before
    with at(tmp_path / "new") as new:
        (new / "runs/1").mkdir()
        code, said = manage("restore", str(target))
        assert (code, f"{new / 'runs'} is not empty" in said) == (1, True)


# --- Rows and files ---------------------------------------------------------------------------------------
def test_a_whole_site_checks_well(home: Path) -> None:
    code, said = manage("restore", "--check")
    assert (code, "0 not as they should be; 0 others." in said) == (0, True), said


def test_the_check_names_what_is_missing_differs_or_belongs_to_nobody(home: Path) -> None:
    run, done, data = Run.objects.get(name="running"), Run.objects.get(name="done"), Dataset.objects.get()
    (home / f"datasets/{data.pk}/val_labels.npy").unlink()
    (home / f"datasets/{data.pk}/meta.json").write_text('{"fingerprint": "0"}')
    (home / f"runs/{run.pk}/2/resume-20.pt").unlink()
    flip(home / "teachers/7.safetensors")
    write("runs/99/1/student.safetensors", b"of a run made later")
    write(f"runs/{done.pk}/1/resume-5.pt", b"nobody's")
    before = contents(home)
    code, said = manage("restore", "--check")
    assert code == 1
    for line in (
        f"✗ datasets/{data.pk}/val_labels.npy is missing: part of the dataset “digits”.",
        f"✗ datasets/{data.pk} holds other data than the dataset “digits” had.",
        f"✗ runs/{run.pk}/2/resume-20.pt is missing: resume checkpoint of run {run.pk} at step 20. "
        "The run goes on from the checkpoint at step 10.",
        "✗ teachers/7.safetensors differs from its hash: weights of the teacher “uploaded”.",
        "! runs/99 belongs to no row.",
        f"! runs/{done.pk}/1/resume-5.pt belongs to no row.",
    ):
        assert line in said
    assert "4 not as they should be; 2 others." in said
    assert contents(home) == before, "nothing is removed"


def test_an_older_checkpoint_that_is_gone_is_no_problem_and_the_last_one_is(home: Path) -> None:
    run = Run.objects.get(name="running")
    (home / f"runs/{run.pk}/2/resume-10.pt").unlink()
    assert manage("restore", "--check")[0] == 0
    (home / f"runs/{run.pk}/2/resume-20.pt").unlink()
    code, said = manage("restore", "--check")
    assert (code, "the run can only begin anew." in said) == (1, True)


def test_a_row_that_names_a_file_outside_is_a_problem(home: Path) -> None:
    Teacher.objects.filter(name="uploaded").update(weights="../outside", status=Readiness.READY)
    (home.parent / "outside").write_bytes(b"seven")
    code, said = manage("restore", "--check")
    assert (code, "../outside is missing" in said) == (1, True)


def test_either_a_backup_or_a_check(home: Path) -> None:
    assert manage("restore") == (1, "Give either the folder of a backup, or --check.")
