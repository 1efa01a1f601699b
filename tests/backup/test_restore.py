"""Restoring: what is refused before anything is touched, and whether rows and files agree afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from experiments.backup import manifest
from experiments.models import Dataset, Run, Teacher, Upload
from experiments.models.catalogue import Readiness
from tests.experiments.make import a_dataset

from .conftest import at, backed_up, contents, edit, flip, manage, write


# --- What a restore refuses, before it touches anything ---------------------------------------------------
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


def test_f60_files_older_or_newer_than_the_database(home: Path) -> None:
    """files of a store are missing, differ, or belong to no row → each is named; nothing is deleted."""
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


def test_what_is_being_made_is_no_stray(home: Path) -> None:
    made, sent = a_dataset("in the making", status="preparing"), Upload.objects.get(status="checking")
    for path in (
        f"datasets/.{made.pk}.preparing-0123456789ab/train_images.npy",
        f"datasets/.upload-{sent.pk}.preparing-0123456789ab/train_images.npy",
        f"teachers/.upload-{sent.pk}.safetensors.writing-01234567",
        "teachers/upload-of-nobody.safetensors",
    ):
        write(path, b"half")
    code, said = manage("restore", "--check")
    assert (code, "0 not as they should be; 1 others." in said) == (0, True), said


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


def test_a_database_without_tables_is_no_crash(tmp_path: Path, django_db_blocker: Any) -> None:
    with django_db_blocker.unblock(), at(tmp_path / "home"):
        code, said = manage("backup", str(tmp_path / "backup"))
        assert (code, said.startswith("The database refused (no such table")) == (1, True)
    assert not list(tmp_path.glob("backup*"))


def test_either_a_backup_or_a_check(home: Path) -> None:
    assert manage("restore") == (1, "Give either the folder of a backup, or --check.")
