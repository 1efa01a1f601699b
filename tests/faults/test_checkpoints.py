"""Checkpoints that vanish or rot, disks that are full or read-only, a power cut: what is whole is used."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest

from experiments import lifecycle
from experiments.models import Artifact, Run

from .disks import small_disk
from .moments import EPOCHS, assert_as_undisturbed, paused
from .processes import kill_all, of_home
from .site import Site
from .twins import sha256

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def checkpoints(run: Run) -> list[Artifact]:
    """Newest first."""
    return list(run.artifacts.filter(kind="resume").order_by("-step"))


# --- A full disk ------------------------------------------------------------------------------------------
def test_f33_disk_full_at_a_checkpoint(fresh_site: Site) -> None:
    """the data folder's disk is full at a checkpoint → paused, and says so; the old one is intact; space
    freed → goes on by itself, exactly."""
    with small_disk(fresh_site.home, megabytes=32) as disk:
        worker = fresh_site.worker().start()
        run = fresh_site.resumable(fresh_site.start_run(epochs=EPOCHS))
        disk.fill(leave=4096)
        run = fresh_site.status(run, "paused")
        assert run.hold == "disk"
        assert "The disk is full" in run.reason
        assert str(run.folder) in run.reason
        last = checkpoints(run)[0]
        assert sha256(last.full_path) == last.sha256
        assert not list(run.folder.rglob(".writing-*"))
        assert worker.alive
        disk.clear()
        fresh_site.ended(run)
        assert_as_undisturbed(fresh_site, run, "paused", "succeeded")
        assert run.attempts.get(number=2).from_step == last.step
        assert "There is room on the disk again." in fresh_site.events(run)


def test_f38_no_inode_left(fresh_site: Site) -> None:
    """bytes but no file left on the disk → paused as by a full disk, and not sent back until there are
    files; then goes on by itself, exactly."""
    with small_disk(fresh_site.home / "runs", megabytes=32, files=200) as disk:
        fresh_site.worker().start()
        run = fresh_site.resumable(fresh_site.start_run(epochs=EPOCHS))
        disk.take_files()
        run = fresh_site.status(run, "paused")
        assert run.hold == "disk"
        assert "df -i" in run.reason
        with pytest.raises(AssertionError):  # no loop of attempts that cannot succeed
            fresh_site.status(run, "queued", "preparing", "running", seconds=25)
        assert fresh_site.outcomes(run) == ["paused"]
        disk.clear()
        fresh_site.ended(run)
        assert_as_undisturbed(fresh_site, run, "paused", "succeeded")


def test_f38_too_many_open_files(fresh_site: Site) -> None:
    """the engine may open no further file → failed with the limit and what to raise; no second try by
    itself; tried again by a person it goes on, exactly."""
    worker = fresh_site.worker().start()
    run = fresh_site.resumable(fresh_site.start_run(epochs=EPOCHS))
    engine = worker.engine()
    engine.rlimit(resource.RLIMIT_NOFILE, (3, 3))
    run = fresh_site.ended(run)
    assert run.status == "failed"
    assert "Too many files are open" in run.reason
    assert "limit is 3" in run.reason
    assert "ulimit -n" in run.reason
    assert fresh_site.outcomes(run) == ["failed"]
    assert lifecycle.retry(run, "ann")
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "failed", "succeeded")


def test_f37_read_only_mount(fresh_site: Site) -> None:
    """the runs' disk becomes read-only → failed, names the path; writable again and tried again → exact."""
    with small_disk(fresh_site.home / "runs", megabytes=32) as disk:
        fresh_site.worker().start()
        run = fresh_site.resumable(fresh_site.start_run(epochs=EPOCHS))
        fresh_site.wait_for(disk.read_only, 30)
        run = fresh_site.ended(run)
        assert run.status == "failed"
        assert str(run.folder) in run.reason
        assert "Read-only file system" in run.reason
        assert "Give the worker's user the right to it" in run.reason
        assert fresh_site.outcomes(run) == ["failed"]
        disk.read_only(False)
        assert lifecycle.retry(run, "ann")
        fresh_site.ended(run)
        assert_as_undisturbed(fresh_site, run, "failed", "succeeded")


# --- Checkpoints that are not what they were --------------------------------------------------------------
def test_f35_checkpoints_deleted_by_hand(fresh_site: Site) -> None:
    """the folder of a paused run is deleted → failed, says so; begun anew only on request."""
    worker = fresh_site.worker().start()
    run = paused(fresh_site, fresh_site.start_run(epochs=EPOCHS), worker)
    shutil.rmtree(run.folder)
    assert lifecycle.resume(run, "ann")
    run = fresh_site.ended(run)
    assert run.status == "failed"
    assert "None of its 2 checkpoints can be used" in run.reason
    assert f"{run.folder}" in run.reason
    assert "try again from the start" in run.reason
    assert lifecycle.retry(run, "ann", from_start=True)
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "paused", "failed", "succeeded")
    assert run.attempts.get(number=3).from_step == 0


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {"truncated": cut_short, "bit flipped": flip_a_bit, "deleted": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGE)
def test_f36_newest_checkpoint_damaged(fresh_site: Site, damage: str) -> None:
    """the newest checkpoint is cut, rots or is gone → warning with its step; on from the one before."""
    worker = fresh_site.worker().start()
    run = paused(fresh_site, fresh_site.start_run(epochs=EPOCHS), worker)
    newest, before = checkpoints(run)
    DAMAGE[damage](newest.full_path)
    assert lifecycle.resume(run, "ann")
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "paused", "succeeded")
    assert run.attempts.get(number=2).from_step == before.step
    words = f"The checkpoint of step {newest.step} cannot be used: {newest.full_path}"
    assert any(text.startswith(words) for text in fresh_site.events(run))


def test_f36_both_checkpoints_damaged(fresh_site: Site) -> None:
    """both rot → failed, both named, nothing begun anew; one brought back from a backup → goes on."""
    worker = fresh_site.worker().start()
    run = paused(fresh_site, fresh_site.start_run(epochs=EPOCHS), worker)
    newest, before = checkpoints(run)
    backup = newest.full_path.read_bytes()
    flip_a_bit(newest.full_path)
    cut_short(before.full_path)
    assert lifecycle.resume(run, "ann")
    run = fresh_site.ended(run)
    assert run.status == "failed"
    said = "\n".join(fresh_site.events(run))
    assert all(f"The checkpoint of step {one.step} cannot be used" in said for one in (newest, before))
    assert "Bring" in run.reason
    newest.full_path.write_bytes(backup)
    assert lifecycle.retry(run, "ann")
    fresh_site.ended(run)
    assert_as_undisturbed(fresh_site, run, "paused", "failed", "succeeded")
    assert run.attempts.get(number=3).from_step == newest.step


# --- Everything at once -----------------------------------------------------------------------------------
def test_f61_power_cut(fresh_site: Site) -> None:
    """SIGKILL of workers, web and Redis at once; what was not forced to disk is lost: Redis' log, half of the
    newest checkpoint, a started one → all is started again, the runs go on and end as their twins.

    Simulated: the lost bytes are cut from the files by hand, as no disk's cache can be dropped here.
    """
    worker, web = fresh_site.worker().start(), fresh_site.web().start()
    run = fresh_site.start_run("at work", epochs=EPOCHS)
    waiting = fresh_site.start_run("waiting", epochs=2)
    fresh_site.wait_for(lambda: len(checkpoints(run)) == 2)
    kill_all(of_home(fresh_site.home))
    fresh_site.broker.kill()
    for process in (worker, web):
        process.process.wait(20)
    lose_what_was_not_synced(fresh_site, run)
    fresh_site.broker.start()
    web.start()
    worker.start()
    fresh_site.ended(run)
    fresh_site.ended(waiting)
    assert_as_undisturbed(fresh_site, run, "lost", "succeeded")
    assert_as_undisturbed(fresh_site, waiting, "succeeded")


def lose_what_was_not_synced(site: Site, run: Run) -> None:
    newest = checkpoints(run)[0].full_path
    cut_short(newest)
    newest.with_name(f".writing-{newest.name}-1").write_bytes(newest.read_bytes())
    for log in site.broker.folder.glob("appendonly*"):
        shutil.rmtree(log) if log.is_dir() else log.unlink()
    for dump in site.broker.folder.glob("*.rdb"):
        dump.unlink()
