"""Short work: held by one, nudges again, given up."""

from __future__ import annotations

import pytest

from experiments import jobs
from experiments.models import Dataset
from experiments.models.catalogue import Readiness

from .lives import PAST
from .make import a_dataset

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("nudges")]


def test_short_work_is_held_by_one_and_sent_again_when_its_worker_dies(
    nudges, django_capture_on_commit_callbacks
):
    dataset = a_dataset("new", status=Readiness.PREPARING)
    held = jobs.take(Dataset, dataset.pk)
    assert held is not None
    assert jobs.take(Dataset, dataset.pk) is None
    with django_capture_on_commit_callbacks(execute=True):
        jobs.sweep()
    assert nudges == []
    Dataset.objects.update(lease_expires=PAST)
    with django_capture_on_commit_callbacks(execute=True):
        jobs.sweep()
    assert nudges == [("worker.tasks.prepare_dataset", dataset.pk)]
    again = jobs.take(Dataset, dataset.pk)
    assert not jobs.finish(held, status=Readiness.READY)
    assert jobs.finish(again, status=Readiness.READY)
    assert Dataset.objects.get(pk=dataset.pk).tries == 0


def test_short_work_that_kills_its_worker_is_given_up():
    dataset = a_dataset("deadly", status=Readiness.PREPARING)
    for _ in range(jobs.MAX_TRIES):
        assert not jobs.gave_up(jobs.take(Dataset, dataset.pk))
        Dataset.objects.update(lease_expires=PAST)
    assert "died 3 times" in jobs.gave_up(jobs.take(Dataset, dataset.pk))
