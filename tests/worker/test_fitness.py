"""Which worker may take a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from experiments import publish
from experiments.models import Worker
from worker import fitness, presence

pytestmark = pytest.mark.django_db


@pytest.fixture
def worker() -> Worker:
    return Worker.objects.create(name="cpu0@here", host="here", queue="cpu")


def trouble() -> str:
    return Worker.objects.get().trouble


def test_a_worker_in_order_takes_runs_also_before_it_has_announced_itself(worker: Worker):
    assert fitness.may_take(worker.name)
    assert fitness.may_take("not announced yet")
    assert trouble() == ""


def test_a_drained_worker_takes_none_and_is_in_no_trouble(worker: Worker):
    Worker.objects.update(drain=True)
    assert not fitness.may_take(worker.name)
    assert trouble() == ""
    assert not Worker.objects.taking().exists()


def test_a_lost_device_takes_the_worker_out_until_it_starts_anew(worker: Worker):
    fitness.leave_rotation(worker.name, "CUDA error: unspecified launch failure.")
    assert not fitness.may_take(worker.name)
    assert "launch failure" in trouble()
    assert not Worker.objects.taking().exists()
    publish.announce(worker.name, "cpu", "here", {"devices": [], "versions": {}})
    assert fitness.may_take(worker.name)


def test_code_older_than_the_database_takes_none_and_says_so(worker: Worker):
    MigrationRecorder(connection).record_applied("experiments", "9999_from_the_future")
    assert not fitness.may_take(worker.name)
    assert "9999_from_the_future" in trouble()
    MigrationRecorder(connection).record_unapplied("experiments", "9999_from_the_future")
    assert fitness.may_take(worker.name)
    assert trouble() == ""


def test_a_database_that_was_not_migrated_is_said_too(worker: Worker):
    MigrationRecorder(connection).record_unapplied("experiments", "0005_leases_and_attempts")
    assert not fitness.may_take(worker.name)
    assert "manage.py prepare" in trouble()


class Consumer:
    """What Celery offers a step: the queues it listens to, and how to listen to more or fewer."""

    def __init__(self) -> None:
        self.heard = {"cpu": None, "control": None}
        self.app = SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=self.heard)))

    def cancel_task_queue(self, name: str) -> None:
        del self.heard[name]

    def add_task_queue(self, name: str) -> None:
        self.heard[name] = None


def test_a_worker_out_of_rotation_listens_again_by_itself(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(presence, "queues", lambda: ["control", "cpu"])
    consumer = Consumer()
    MigrationRecorder(connection).record_applied("experiments", "9999_from_the_future")
    presence._beat(worker.name, consumer)
    assert list(consumer.heard) == ["control"]
    assert "9999_from_the_future" in trouble()
    MigrationRecorder(connection).record_unapplied("experiments", "9999_from_the_future")
    presence._beat(worker.name, consumer)
    assert sorted(consumer.heard) == ["control", "cpu"]
    assert trouble() == ""
