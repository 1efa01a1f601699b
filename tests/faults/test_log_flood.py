"""A library that cannot stop talking."""

from __future__ import annotations

import sys
from collections.abc import Callable

import psutil
import pytest

from experiments import lifecycle
from experiments.models import Run
from experiments.recorder import KEPT_LINES, Recorder
from worker.driving import Watch, drive
from worker.supervisor import Engine

from .site import Site

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
LINES, MIB = 1_000_000, 1 << 20
FLOOD = f"for n in range({LINES}): print('UserWarning: this is line', n, 'of far too many')"


def test_f59_log_flood_of_a_million_lines(make_site: Callable[..., Site]) -> None:
    """simulated: the training process prints 10⁶ lines → the newest stay, pages work, memory is bounded"""
    site = make_site()
    run = site.start_run("talks")
    run = lifecycle.claim("a test", "cpu")
    assert run
    record, engine = Recorder(run), Engine([sys.executable, "-c", FLOOD])
    before, used = psutil.Process().memory_info().rss, site.broker.client().info("memory")["used_memory"]
    try:
        drive(engine, record.feed, record.tick, Watch("a test", lambda: renewed(run), lambda: False))
        assert record.close()
    finally:
        engine.close()
    grown = psutil.Process().memory_info().rss - before
    held = site.broker.client().info("memory")["used_memory"] - used
    assert grown < 300 * MIB, f"the worker holds {grown / MIB:.0f} MB more"
    assert held < 200 * MIB, f"Redis holds {held / MIB:.0f} MB more"
    numbers = list(run.log.values_list("n", flat=True))
    assert KEPT_LINES <= len(numbers) < 3 * KEPT_LINES
    assert numbers == list(range(LINES - len(numbers) + 1, LINES + 1))
    assert run.log.last().text.endswith(f"line {LINES - 1} of far too many")
    ann = site.web().start().client("ann")
    for page in (f"/runs/{run.pk}/", f"/api/runs/{run.pk}/log?after={LINES - 100}"):
        assert ann.get(page).status == 200
    assert ann.get(f"/runs/{run.pk}/log").text.count("\n") == len(numbers)


def renewed(run: Run) -> bool:
    return lifecycle.renew(run.pk, run.fence)
