"""The catalogue as rows, and messages while the broker is away."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from celery import Celery

from experiments import queue
from experiments.models import Architecture, DatasetKind, Method, Worker
from experiments.publish import announce, heartbeat, known, publish

pytestmark = pytest.mark.django_db


def catalogue(*keys: str, **more: Any) -> dict[str, Any]:
    method = {"title": "M", "paper": "P", "paper_url": "https://x.org", "formula": "f", "summary": "s"}
    method |= {"schema": {"type": "object"}, "needs": ["logits"], "task_forms": ["single-label"]}
    net = {"key": "resnet8", "title": "ResNet-8", "family": "resnet", "source": "kdweb", "min_image_size": 8}
    net |= {"summary": "", "paper": "", "parameters": 78_042, "flops": 25_000_000}
    kind = {"key": "digits", "title": "Digits", "summary": "", "schema": {}, "source": "bundled"}
    return {
        "methods": [{"key": key} | method for key in keys],
        "broken_methods": {},
        "architectures": [net],
        "dataset_kinds": [kind],
        "source": "the code's hash",
        "versions": {"torch": "2.13.0"},
        "devices": [{"name": "cuda:0", "description": "NVIDIA H100"}, {"name": "cpu", "description": "CPU"}],
    } | more


def test_a_catalogue_becomes_rows_however_often_it_comes():
    for _ in range(2):
        publish(catalogue("kd", "fitnet"))
    assert Method.objects.get(key="kd").tasks == ["single-label"]
    assert Architecture.objects.get().parameters == 78_042
    assert DatasetKind.objects.get().title == "Digits"


def test_what_was_published_last_is_known_by_its_source():
    assert known() == ""
    publish(catalogue("kd"))
    publish(catalogue("kd", source="newer"))
    assert known() == "newer"


def test_a_method_that_is_no_longer_offered_stays_but_cannot_be_chosen():
    publish(catalogue("kd", "fitnet"))
    publish(catalogue("kd"))
    assert Method.objects.get(key="kd").available
    assert not Method.objects.get(key="fitnet").available
    publish(catalogue("kd", "fitnet"))
    assert Method.objects.get(key="fitnet").problem == ""


def test_a_broken_method_says_what_is_wrong_with_it():
    publish(catalogue("kd", broken_methods={"dkd": "SyntaxError: line 3"}))
    broken = Method.objects.get(key="dkd")
    assert (broken.available, broken.problem) == (False, "SyntaxError: line 3")


def test_a_worker_announces_its_best_device_and_beats():
    announce("gpu0@here", "cpu,gpu", "here", catalogue("kd"))
    heartbeat("gpu0@here", usage={"cpu": 12.5})
    worker = Worker.objects.get()
    assert (worker.device, worker.device_kind) == ("NVIDIA H100", "cuda")
    assert worker.usage == {"cpu": 12.5}
    assert set(worker.versions) == {"kdweb", "torch"}
    assert worker.alive


def test_while_the_broker_is_away_nothing_waits_and_nothing_breaks(monkeypatch, caplog, settings, tmp_path):
    settings.CELERY_BROKER_URL = f"redis+socket://{tmp_path}/nobody.sock"
    away = Celery()
    away.config_from_object(settings, namespace="CELERY")
    monkeypatch.setattr(queue, "app", away)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        queue._send("worker.tasks.run", 1, queue.RUNS)
    assert queue.waiting_messages(queue.RUNS) is None
    assert "waits for the sweep" in caplog.text
    assert time.monotonic() - began < 3
