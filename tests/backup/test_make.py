"""Making backups: what is in one, and what happens when it cannot be made."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from experiments.backup import database, make, manifest
from experiments.models import Run, Upload, Worker
from tests.running import ROOT, environment

from .conftest import artifact, at, backed_up, contents, edit, manage


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kilobytes", "words"), [(100, "The database could not be copied"), (50_000, "made (")]
)
def test_a_write_that_fails_leaves_nothing(kilobytes: int, words: str, home: Path, tmp_path: Path) -> None:
    """The system refuses larger files: first the dump, then a copy ends as on a full disk."""
    os.truncate(home / "teachers/7.safetensors", 60_000_000)
    connections["default"].close()
    limited = f"ulimit -f {kilobytes}; exec '{sys.executable}' manage.py backup '{tmp_path / 'backup'}'"
    argv = ["bash", "-c", limited]
    done = subprocess.run(argv, cwd=ROOT, env=environment(home, 0), capture_output=True, text=True)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("backup*"))
    assert not list((home / ".backing-up").iterdir())


def test_a_disk_without_room_is_said_at_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
