"""Whoever watches: many at once, from afar, after an hour away, and for no longer than they may."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest

from experiments import lifecycle, metric_store, stream
from experiments.metric_store import Points
from experiments.models import Membership, Run
from experiments.recorder import Recorder
from worker.distill.events import Metrics

from .person import Client, Stream
from .processes import until
from .site import Site
from .workers import WebProcess

pytestmark = [pytest.mark.timeout(300)]
quick, long = pytest.mark.server, pytest.mark.faults  # `make test` runs the quick ones too
MIB = 1 << 20


def claimed(site: Site) -> tuple[Run, Recorder]:
    """A run that this process trains, so to speak: it says what its recorder is fed."""
    Run.objects.filter(status__in=(Run.Status.QUEUED, *Run.ACTIVE)).update(status=Run.Status.CANCELLED)
    run = site.start_run("watched", epochs=100)
    assert lifecycle.claim("a test", "cpu")
    run.refresh_from_db()
    return run, Recorder(run)


def train(recorder: Recorder, first: int, last: int) -> None:
    """Steps first … last, in one block, one frame and one transaction."""
    steps = list(range(first, last + 1))
    values: dict[str, list[float | None]] = {"loss/total": [1.0 / step for step in steps]}
    recorder.feed(Metrics(steps=steps, wall=[time.time()] * len(steps), values=values))
    assert recorder.flush()


def read_until(line: Stream, last: int, seconds: float = 30) -> tuple[list[int], str]:
    """The steps of the frames until `last` was there, and the id of the last event."""
    seen: list[int] = []
    for event in line.events(seconds):
        if event.kind == "message":
            seen += event.frame.get("points", {}).get("loss/total", {}).get("s", [])
            if seen and seen[-1] >= last:
                return seen, event.id
    raise AssertionError(f"step {last} did not come in {seconds} s: {seen[-3:]}")


def curve(person: Client, run: Run) -> tuple[list[int], str]:
    """The steps of the loss as a page loads them, and the cursor from where it listens."""
    answer = person.get(f"/api/runs/{run.pk}/series?names=loss/total&width=4000").json
    return answer["series"]["loss/total"]["s"], answer["cursor"]


@quick
def test_f46_back_after_a_short_gap_and_after_an_hour(office: Site, ann: Client) -> None:
    """away while frames go on, back with Last-Event-ID → no gap, no double; older than all: reload."""
    run, recorder = claimed(office)
    with ann.stream(f"/runs/{run.pk}/live") as line:
        train(recorder, 1, 100)
        seen, last = read_until(line, 100)
    for first in range(101, 600, 100):
        train(recorder, first, first + 99)
    with ann.stream(f"/runs/{run.pk}/live", after=last) as line:
        more, last = read_until(line, 600)
    assert seen + more == list(range(1, 601))
    train(recorder, 601, 2900)
    for _ in range(2 * stream.KEPT_FRAMES):  # an hour: more frames than are kept
        stream.publish(run.pk, {"phase": "training"})
    train(recorder, 2901, 3000)
    with ann.stream(f"/runs/{run.pk}/live", after=last) as line:
        assert [event.kind for event in line.events(10)] == ["reload"]  # and it ended
    steps, cursor = curve(ann, run)
    assert steps == list(range(1, 3001))
    train(recorder, 3001, 3050)
    with ann.stream(f"/runs/{run.pk}/live", after=cursor) as line:
        more, _ = read_until(line, 3050)
    assert more == list(range(3001, 3051))
    assert curve(ann, run)[0] == list(range(1, 3051))


@long
def test_f47_a_proxy_that_cuts_silent_lines(office: Site, ann: Client) -> None:
    """a line where nothing happens → a comment at least every 15 s, nothing buffered; cut: it goes on."""
    run, recorder = claimed(office)
    with ann.stream(f"/runs/{run.pk}/live") as line:
        assert line.answer.headers["X-Accel-Buffering"] == "no"
        assert line.answer.headers["Cache-Control"] == "no-cache"
        train(recorder, 1, 10)
        seen, last = read_until(line, 10)
        assert line.heartbeat(stream.PING_SECONDS + 2)
        assert line.heartbeat(stream.PING_SECONDS + 2)
    train(recorder, 11, 20)
    with ann.stream(f"/runs/{run.pk}/live", after=last) as line:
        assert seen + read_until(line, 20)[0] == list(range(1, 21))


@long
def test_f43_who_may_no_longer_see_it_while_the_stream_is_open(office: Site, web: WebProcess) -> None:
    """membership lost, deactivated, new password, logged out → closed in 60 s; others stay."""
    run, recorder = claimed(office)
    names = ("removed", "deactivated", "renewed", "left", "stays")
    people = {name: web.client(name) for name in names}
    with ExitStack() as stack:
        lines = {
            name: stack.enter_context(one.stream(f"/runs/{run.pk}/live")) for name, one in people.items()
        }
        train(recorder, 1, 5)
        for line in lines.values():
            read_until(line, 5)
        end = time.monotonic() + 60
        Membership.objects.filter(user__username="removed").delete()
        deactivated, renewed = office.person("deactivated"), office.person("renewed")
        deactivated.is_active = False
        deactivated.save()
        renewed.set_password("another battery staple")
        renewed.save()
        assert people["left"].post("/logout/").status == 302
        for name in names[:-1]:
            assert lines[name].closes(end - time.monotonic()), f"{name} still reads"
        train(recorder, 6, 10)
        assert read_until(lines["stays"], 10)[0] == list(range(6, 11))
    assert people["removed"].stream(f"/runs/{run.pk}/live").status == 404
    assert people["deactivated"].get(f"/runs/{run.pk}/live").location.startswith("/login/")


@long
def test_f48_two_hundred_tabs_on_one_run(office: Site, web: WebProcess, ann: Client) -> None:
    """200 streams of one run → each gets everything, less than 100 MB more memory, and it comes back down."""
    run, recorder = claimed(office)
    ann.get(f"/runs/{run.pk}/")
    before = web.memory()
    with ExitStack() as stack:
        lines = [stack.enter_context(ann.stream(f"/runs/{run.pk}/live")) for _ in range(200)]
        assert {line.status for line in lines} == {200}
        for first in range(1, 3000, 300):
            train(recorder, first, first + 299)
        for line in lines:
            assert read_until(line, 3000)[0] == list(range(1, 3001))
        grown = web.memory() - before
        assert ann.get(f"/runs/{run.pk}/").status == 200
    assert grown < 100 * MIB, f"{grown / MIB:.0f} MB for 200 streams"
    until(lambda: not watched(office, run), 30, "nobody reads the run's stream any more")


def watched(site: Site, run: Run) -> bool:
    """Whether the web process still waits for the run's frames."""
    return any("xread" in str(one["cmd"]).lower() for one in site.broker.client().client_list())


@quick
def test_f49_a_million_points(office: Site, ann: Client) -> None:
    """a run of 1,000,000 steps → page and curve answer, down-sampled with no spike lost; the CSV has all."""
    run, _ = claimed(office)
    count, spike = 1_000_000, 613_007
    steps = np.arange(1, count + 1, dtype=np.int64)
    values = np.sin(steps / 1e4)
    values[spike - 1] = 99.5
    metric_store.append(run.pk, run.fence, {"loss/total": Points(steps, values, steps * 0.01 + 1.7e9)})
    assert ann.get(f"/runs/{run.pk}/").status == 200
    shown = ann.get(f"/api/runs/{run.pk}/series?names=loss/total&width=1000").json["series"]["loss/total"]
    assert len(shown["s"]) <= 2002
    assert shown["v"][shown["s"].index(spike)] == 99.5
    rows = list(csv.reader(io.StringIO(ann.get(f"/api/runs/{run.pk}/series.csv").text)))
    assert rows[0] == ["run", "series", "step", "value", "wall"]
    assert len(rows) == count + 1
    assert np.array_equal(np.array([int(row[2]) for row in rows[1:]]), steps)
    assert np.array_equal(np.array([float(row[3]) for row in rows[1:]]), values)


@long
def test_f30_a_hundred_streams_at_twenty_database_connections(make_site: Callable[..., Site]) -> None:
    """PostgreSQL with max_connections=20, 100 tabs open at once → pages answer, no stream holds one."""
    site = make_site("postgresql", max_connections=20)
    web = site.web().start()
    ann = web.client("ann")
    run = site.start_run("watched")
    lines: list[Stream] = []

    def open_one() -> None:
        """As the page does: a server that says 503 is asked again soon."""
        for _ in range(20):
            line = ann.stream(f"/runs/{run.pk}/live")
            if line.status != 503:
                break
            line.close()
            time.sleep(1)
        lines.append(line)

    openers = [threading.Thread(target=open_one) for _ in range(100)]
    for one in openers:
        one.start()
    for one in openers:
        one.join()
    try:
        assert [line.status for line in lines] == [200] * 100
        assert [ann.get(f"/runs/{run.pk}/").status for _ in range(10)] == [200] * 10
        site.wait_for(lambda: site.postgres.clients() <= 5, 30)
        lifecycle.set_priority(run, 1, "ann")
        assert ann.get(f"/api/runs/{run.pk}/state").json["status"] == "queued"
    finally:
        for line in lines:
            line.close()
