"""The broker goes away, forgets, repeats itself, fills up, or says nonsense. A message is only a nudge."""

from __future__ import annotations

import base64
import json
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest

from experiments import lifecycle, queue
from experiments.management.commands import doctor
from experiments.models import Run
from kdweb import stack

from .site import Site

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def send(run_id: int, times: int = 1) -> None:
    for _ in range(times):
        queue.send_run(run_id)


def drained(site: Site) -> bool:
    return queue.waiting_messages(queue.RUNS) == 0


def idle(site: Site) -> bool:
    return drained(site) and not Run.objects.filter(status__in=Run.ACTIVE).exists()


def test_f20_broker_restarted_while_a_run_trains(fresh_site: Site) -> None:
    """restart Redis twice mid-run, once by SIGKILL → one attempt, the twin's result."""
    fresh_site.worker().start()
    run = fresh_site.start_run(epochs=25)
    fresh_site.running(run, step=20)
    fresh_site.broker.restart()
    fresh_site.running(run, step=100)
    fresh_site.broker.kill()
    fresh_site.broker.start()
    fresh_site.succeeded(run)
    fresh_site.assert_same(run)
    assert fresh_site.outcomes(run) == ["succeeded"]
    fresh_site.succeeded(fresh_site.start_run("after it", epochs=1))


def test_f21_broker_flushed_with_twenty_queued_runs(fresh_site: Site) -> None:
    """FLUSHALL while one run trains and twenty wait → all run later, each once."""
    for name in ("cpu0", "cpu1"):
        fresh_site.worker(name).start()
    first = fresh_site.start_run("first", epochs=12)
    fresh_site.running(first)
    runs = [fresh_site.start_run(f"run {n}", epochs=1) for n in range(20)]
    fresh_site.broker.flush()
    for run in (first, *runs):
        fresh_site.succeeded(run, seconds=400)
        assert fresh_site.outcomes(run) == ["succeeded"]
    fresh_site.assert_same(first)


def test_f23_broker_away_beyond_the_visibility_timeout(make_site: Callable[..., Site]) -> None:
    """visibility timeout 5 s; a run outlasts it with the broker up, then away for 15 s → no second copy."""
    site = make_site(settings="tests.faults.impatient")
    for name in ("cpu0", "cpu1"):
        site.worker(name).start()
    run = site.start_run(epochs=120)
    site.running(run)
    time.sleep(12)
    site.broker.kill()
    time.sleep(15)
    assert Run.objects.get(pk=run.pk).status == "running"
    site.broker.start()
    site.wait_for(lambda: drained(site), 60)
    site.succeeded(run)
    assert site.outcomes(run) == ["succeeded"]
    site.assert_same(run)


def test_f24_one_message_a_hundred_times(fresh_site: Site) -> None:
    """a hundred copies of one message, two workers → one execution."""
    run = fresh_site.start_run(epochs=3)
    send(run.pk, 99)
    for name in ("cpu0", "cpu1"):
        fresh_site.worker(name).start()
    fresh_site.succeeded(run)
    fresh_site.wait_for(lambda: idle(fresh_site), 60)
    assert fresh_site.outcomes(run) == ["succeeded"]
    assert Run.objects.get(pk=run.pk).fence == 1
    fresh_site.assert_same(run)


def test_f25_two_workers_told_to_run_the_same_run(fresh_site: Site) -> None:
    """one run, a message for each of two idle workers → one claims it, the other goes on waiting."""
    workers = [fresh_site.worker(name).start() for name in ("cpu0", "cpu1")]
    run = fresh_site.draft(epochs=8)
    fresh_site.wait_for(lambda: all(worker.engines() for worker in workers), 60)
    lifecycle.submit(run, "ann")
    send(run.pk)
    told = f"Asked for work, for run {run.pk}."
    fresh_site.wait_for(lambda: all(worker.says(told) for worker in workers), 60)
    fresh_site.succeeded(run)
    assert fresh_site.outcomes(run) == ["succeeded"]
    assert all(worker.alive for worker in workers)
    fresh_site.assert_same(run)


def test_f26_old_messages_for_finished_cancelled_and_deleted_runs(fresh_site: Site) -> None:
    """messages for runs that ended or are gone → logged and without effect; the worker goes on."""
    worker = fresh_site.worker().start()
    finished = fresh_site.ended(fresh_site.start_run("finished", epochs=1))
    cancelled = fresh_site.draft("cancelled")
    lifecycle.request_stop(cancelled, "ann")
    deleted = fresh_site.draft("deleted")
    gone = deleted.pk
    lifecycle.delete(deleted, "ann")
    for key in (finished.pk, cancelled.pk, gone):
        send(key)
        fresh_site.wait_for(lambda key=key: worker.says(f"Asked for work, for run {key}."), 30)
    fresh_site.wait_for(lambda: idle(fresh_site), 30)
    assert fresh_site.outcomes(finished) == ["succeeded"]
    assert Run.objects.get(pk=cancelled.pk).status == "cancelled"
    assert not fresh_site.outcomes(cancelled)
    assert not Run.objects.filter(pk=gone).exists()
    fresh_site.succeeded(fresh_site.start_run("after them", epochs=1))


class Evil:
    """A pickle that leaves a trace where anybody opens it."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (self.marker, "w")


def message(body: bytes, content_type: str = "application/json", **more: Any) -> str:
    """As kombu lays a message out in the list, with one thing changed."""
    properties = {
        "correlation_id": "x",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "cpu"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "1b671a64-40d5-491e-99b0-da01ff1f3341",
    }
    headers = {"lang": "py", "task": "worker.tasks.run", "id": "1b671a64-40d5-491e-99b0-da01ff1f3342"}
    whole = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": headers | {"root_id": "x", "argsrepr": "()", "kwargsrepr": "{}"},
        "properties": properties,
    }
    return json.dumps(whole | more)


def nonsense(marker: str) -> dict[str, bytes | str]:
    good = json.dumps([[1], {}, {}]).encode()
    evil = pickle.dumps(Evil(marker))
    return {
        "no JSON": "this is no message",
        "no text": b"\xff\xfe\x00\x80",
        "a pickle": evil,
        "a number": "7",
        "null": "null",
        "a list": "[1, 2, 3]",
        "an empty object": "{}",
        "an object of another kind": '{"job": "backup", "at": 3}',
        "a pickled body": message(evil, "application/x-python-serialize", **{"content-encoding": "binary"}),
        "an unknown kind of body": message(good, "application/x-no-such-thing"),
        "a body that is no JSON": message(b"{{{"),
        "a body of another protocol": message(b'"hello"'),
        "without headers": message(good, headers={}),
        "without properties": message(good, properties={}),
        "an unknown task": message(good, headers={"task": "os.system", "id": "a", "lang": "py"}),
        "too many arguments": message(json.dumps([[1, 2, 3], {}, {}]).encode()),
        "no arguments": message(json.dumps([[], {}, {}]).encode()),
        "arguments of other types": message(json.dumps([[{"a": None}], {}, {}]).encode()),
        "unknown keywords": message(json.dumps([[1], {"path": "/etc/passwd"}, {}]).encode()),
    }


@pytest.mark.parametrize("kind", sorted(nonsense("")))
def test_f27_nonsense_in_the_queue(site: Site, kind: str, tmp_path: Any) -> None:
    """LPUSH of what is no message of ours → discarded, nothing of it executed, the same worker works on."""
    worker = site.processes[0]
    before, marker = worker.pid, tmp_path / "opened"
    site.broker.client().lpush("cpu", nonsense(str(marker))[kind])
    site.wait_for(lambda: drained(site), 30)
    run = site.ended(site.start_run(f"after {kind}", epochs=1), seconds=60)
    assert run.status == "succeeded"
    assert worker.alive
    assert worker.pid == before
    assert not marker.exists()


def test_f63_broker_full(fresh_site: Site) -> None:
    """maxmemory reached → submitting works, the run stays queued; room again → the sweep sends it."""
    fresh_site.worker().start()
    fresh_site.broker.limit(1)
    run = fresh_site.start_run(epochs=2)
    assert Run.objects.get(pk=run.pk).status == "queued"
    assert queue.waiting_messages(queue.RUNS) == 0
    fresh_site.broker.limit(0)
    fresh_site.succeeded(run)
    assert fresh_site.outcomes(run) == ["succeeded"]


def test_f63_broker_that_evicts_is_named(fresh_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """a Redis with an evicting policy → doctor and start say so and how to mend it; none with noeviction."""
    monkeypatch.setenv("KDWEB_REDIS_URL", fresh_site.broker.url)
    said: list[str] = []

    def words() -> str:
        said.clear()
        assert stack.broker(fresh_site.home, said.append) == []
        found = [str(part) for finding in doctor.broker() for part in finding]
        return " ".join([*found, *said])

    assert "maxmemory-policy" not in words()
    fresh_site.broker.limit(0, "allkeys-lru")
    assert words().count("(maxmemory-policy allkeys-lru)") == 2
    assert words().count("Set maxmemory-policy noeviction") == 2
