"""What is brought on by a sweep, whoever sweeps."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from experiments import database, lifecycle, queue, sweep
from experiments.models import Pulse, RunValue
from experiments.models.catalogue import Readiness

from .lives import PAST, attempt_of, fresh, lost, queued, swept
from .make import a_run, a_running_run, a_teacher

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nudges")]


def test_a_lease_that_ran_out_is_only_a_suspicion_and_a_renewal_ends_it():
    run = a_running_run(lease_expires=PAST)
    swept()
    assert fresh(run).lost
    assert lifecycle.claim("w2") is None  # for as long as its worker could still renew
    assert lifecycle.renew(run.pk, 1)
    assert not fresh(run).lost
    swept()
    assert fresh(run).silent_since is None


def test_a_clock_set_back_by_an_hour_keeps_no_dead_worker_alive():
    run = a_running_run(lease_expires=timezone.now() + timedelta(hours=1))
    swept()
    assert fresh(run).lost


def test_of_many_that_sweep_one_acts():
    swept()
    assert not sweep.sweep("another")
    Pulse.objects.update(at=PAST)
    assert [sweep.sweep(name) for name in ("a", "b", "c")] == [True, False, False]
    assert Pulse.objects.get().by == "a"


@pytest.mark.parametrize(("asked", "status"), [("stop", "cancelled"), ("pause", "paused")])
def test_a_sweep_does_what_was_wanted_of_a_run_whose_worker_is_gone(asked, status):
    run = lost(asked=asked)
    swept()
    assert (fresh(run).status, run.attempts.get().outcome) == (status, "lost")


def test_a_full_disk_pauses_and_room_resumes(settings, tmp_path):
    settings.KDWEB_DATA = tmp_path
    run = attempt_of(a_running_run())
    assert lifecycle.disk_full(run.pk, 1, "The disk is full.")
    assert (fresh(run).status, fresh(run).hold, fresh(run).reason) == ("paused", "disk", "The disk is full.")
    swept()
    assert fresh(run).status == "paused"  # it has only just met the full disk
    run.attempts.update(ended=PAST)
    swept()
    assert fresh(run).status == "queued"
    held = queued()
    lifecycle.request_pause(held, "ada")
    swept()
    assert fresh(held).status == "paused"  # a person's pause is a person's to end


def test_a_disk_without_a_file_left_is_full_as_well(settings, tmp_path, monkeypatch):
    settings.KDWEB_DATA = tmp_path
    run = attempt_of(a_running_run())
    assert lifecycle.disk_full(run.pk, 1, "The disk is full.")
    run.attempts.update(ended=PAST)
    found = list(os.statvfs(tmp_path))
    found[5:8] = [1000, 5, 5]  # files in all, free, free for us
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: os.statvfs_result(found))
        swept()
        assert fresh(run).status == "paused"
    swept()
    assert fresh(run).status == "queued"


def test_the_sweep_sends_what_waits_without_a_message(nudges, django_capture_on_commit_callbacks):
    runs = [queued(), lost(name="silent")]
    queued(name="waits for its teacher", teacher=a_teacher(status=Readiness.PREPARING))
    for _ in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            swept()
    assert sorted(nudges) == sorted(("worker.tasks.run", run.pk) for run in runs)


def test_the_sweep_sends_nothing_while_the_broker_is_away(
    monkeypatch, nudges, django_capture_on_commit_callbacks
):
    queued()
    monkeypatch.setattr(queue, "waiting_messages", lambda name: None)
    with django_capture_on_commit_callbacks(execute=True):
        swept()
    assert nudges == []


def test_the_sweep_cancels_a_stopped_run_whose_worker_is_silent():
    run = lost(asked="stop")
    swept()
    assert fresh(run).status == "cancelled"


def test_the_sweep_is_cheap(django_assert_max_num_queries):
    for number in range(30):
        queued(name=f"run {number}")
    swept()
    Pulse.objects.update(at=PAST)
    with django_assert_max_num_queries(12):  # however many wait
        sweep.sweep("w")


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL describes its tables by itself")
def test_a_sweep_tells_sqlite_what_its_tables_are_like():
    run = a_run()
    RunValue.objects.bulk_create(RunValue(run=run, key=f"k{n}", number=n) for n in range(40))
    database.describe.cache_clear()
    swept()
    with connection.cursor() as cursor:
        cursor.execute("SELECT stat FROM sqlite_stat1 WHERE idx = 'values_of_a_key'")
        assert cursor.fetchone()[0].split()[:2] == [str(RunValue.objects.count()), "1"]  # rows, and of a key
