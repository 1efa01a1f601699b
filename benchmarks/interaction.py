"""What a person feels at a run's page: 12 live charts of 10,000 points each, in Chromium.

A training at 100 steps of 15 values a second goes through the real recorder; the window shows all 12 charts
at once. Budgets: no frame over 100 ms while they extend, the first chart ≤ 1 s after navigation (median of
five; on the very first visit the browser also has to fetch and compile the chart library), a step is drawn
≤ 1 s after it was measured (p99). Run: python benchmarks/interaction.py [--seconds 20]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _site as here
from live import web

sys.path.insert(0, str(here.ROOT))
BEFORE = 10_000  # points of each series when the page opens
RATE = 100.0  # steps a second
FEEDS = "KDWEB_BENCHMARK_FEEDS"
CHARTS = {
    "objective": ("loss/total", "loss/ce", "loss/kd"),
    "accuracy": ("val/top1",),
    "validation-loss": ("val/loss",),
    "learning-rate": ("lr",),
    "weights": ("weight/ce", "weight/kd"),
    "temperature": ("dial/ctkd/temperature",),
    "throughput": ("throughput",),
} | {
    f"series:{name}": (name,) for name in ("grad/norm", "grad/max", "grad/clipped", "step/norm", "step/ratio")
}
SERIES = [name for names in CHARTS.values() for name in names]
BUDGETS = {
    "longest frame while extending: ms": 100.0,
    "first chart after navigation: ms": 1000.0,
    "step → drawn: p99 ms": 1000.0,
}
# Notes frames, and when which step of the objective was drawn. All charts are pinned: they share rows.
WATCH = """
const pinned = %s;
localStorage.setItem("kd-charts-run", JSON.stringify({ pinned, order: {}, closed: [] }));
window.seen = { gaps: [], drawn: [], first: 0 };
let last = performance.now();
function glance(now) {
    seen.gaps.push([now, now - last]);
    last = now;
    if (!seen.first && document.querySelector("[data-chart]:not([aria-busy]) .main-svg")) seen.first = now;
    const x = document.querySelector("[data-chart=objective] .chart-plot")?.data?.[0]?.x;
    const step = x?.[x.length - 1];
    if (step && step !== seen.drawn.at(-1)?.[0]) seen.drawn.push([step, Date.now() / 1000]);
    requestAnimationFrame(glance);
}
requestAnimationFrame(glance);
"""
DRAWN = """() => [...document.querySelectorAll("[data-chart] .main-svg:first-child")].length"""


# --- The training: a process of its own -------------------------------------------------------------------
def feed(run_id: int) -> None:
    """What was before at once, then steps at an even pace until it is ended. A line `step wall` for each."""
    import django

    django.setup()
    from experiments.models import Run
    from experiments.recorder import Recorder

    record = Recorder(Run.objects.get(pk=run_id))
    now = time.time()
    say(record, range(1, BEFORE + 1), [now - (BEFORE - step) / RATE for step in range(BEFORE)])
    record.flush()
    print("ready", flush=True)
    began, step = time.monotonic(), BEFORE
    while True:
        due = BEFORE + int((time.monotonic() - began) * RATE)
        if due > step:
            steps = range(step + 1, due + 1)
            say(record, steps, [time.time()] * len(steps))
            step = steps[-1]
            print(step, time.time(), flush=True)
        record.tick()
        time.sleep(0.01)


def say(record: Any, steps: range, wall: list[float]) -> None:
    from worker.distill.events import Metrics, Progress

    noise = random.Random(steps[0])
    values: dict[str, list[float | None]] = {
        name: [math.exp(-step / 9_000) + place + 0.1 * noise.random() for step in steps]
        for place, name in enumerate(SERIES)
    }
    values["val/top1"] = [0.5 + 0.4 * noise.random() for _ in steps]
    record.feed(Metrics(steps=list(steps), wall=wall, values=values))
    record.feed(Progress(step=steps[-1], total_steps=100_000, epoch=1, epochs=10, rate=9_000.0, eta=900.0))


# --- The person ---------------------------------------------------------------------------------------------
def measure(seconds: float) -> dict[str, float]:
    with here.site() as home:
        from django.contrib.auth.models import User
        from django.core.management import call_command
        from django.test import Client
        from playwright.sync_api import sync_playwright

        from tests.experiments.make import a_running_run

        call_command("collectstatic", interactive=False, verbosity=0)
        run = a_running_run()
        client = Client()
        client.force_login(User.objects.create_superuser("bench", password="bench"))
        cookie = client.cookies["sessionid"].value
        with web(home) as (_process, port), sync_playwright() as playwright:
            # With a profile: without one, Chromium keeps nothing compiled from one visit to the next.
            context = playwright.chromium.launch_persistent_context(
                home / "profile",
                executable_path="/usr/bin/chromium",
                args=["--no-sandbox"] if os.getuid() == 0 else [],
                viewport={"width": 2560, "height": 1440},
            )
            context.add_cookies([{"name": "sessionid", "value": cookie, "url": f"http://127.0.0.1:{port}"}])
            with training(home, run.pk) as steps:
                return watched(context.new_page(), f"http://127.0.0.1:{port}/runs/{run.pk}/", seconds, steps)


@contextmanager
def training(home: Path, run: int) -> Iterator[Callable[[], list[tuple[int, float]]]]:
    """Gives the steps so far with their times. Into a file: a pipe that nobody reads would stop it."""
    told = os.environ | {FEEDS: str(run), "OMP_NUM_THREADS": "1"}
    said = home / "steps"
    with said.open("w") as out:
        process = subprocess.Popen([sys.executable, __file__], env=told, stdout=out)
    try:
        here.wait_for(said.read_text)
        yield lambda: [(int(a), float(b)) for a, b in map(str.split, said.read_text().splitlines()[1:-1])]
    finally:
        process.kill()


def watched(page: Any, address: str, seconds: float, steps: Callable[[], Any]) -> dict[str, float]:
    """Opens the page several times, the first time with an empty cache; then looks on while it extends."""
    page.context.add_init_script(WATCH % json.dumps(list(CHARTS)))
    firsts = [first_chart(page, address) for _ in range(6)]
    here.wait_for(lambda: page.evaluate(DRAWN) >= len(CHARTS), 60)
    time.sleep(2)
    begin, begun = page.evaluate("performance.now()"), time.time()
    time.sleep(seconds)
    seen = page.evaluate("seen")
    drawn, frames = seen["drawn"], sorted(gap for at, gap in seen["gaps"] if at > begin)
    walls = [(step, wall) for step, wall in steps() if begun < wall < begun + seconds - 3]
    # A step that was not drawn at all counts as drawn at the end.
    ends = [next((at for last, at in drawn if last >= step), begun + seconds) for step, _ in walls]
    delays = sorted(1000 * (at - wall) for at, (_, wall) in zip(ends, walls, strict=True))
    return {
        "longest frame while extending: ms": frames[-1],
        "frames: p99 ms": frames[int(0.99 * len(frames))],
        "frames a second": len(frames) / seconds,
        "first chart, nothing in the cache: ms": firsts[0],
        "first chart after navigation: ms": sorted(firsts[1:])[2],
        "step → drawn: median ms": delays[len(delays) // 2],
        "step → drawn: p99 ms": delays[int(0.99 * len(delays))],
    }


def first_chart(page: Any, address: str) -> float:
    page.goto("about:blank")
    page.goto(address)
    return float(here.wait_for(lambda: page.evaluate("seen.first"), 60))


def main() -> int:
    if run := os.environ.get(FEEDS):
        feed(int(run))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    found = measure(parser.parse_args().seconds)
    for name, number in found.items():
        budget = f"  ≤ {BUDGETS[name]:g}" if name in BUDGETS else ""
        print(f"{name:45} {number:8.1f}{budget}")
    ratio = max(found[name] / budget for name, budget in BUDGETS.items())
    numbers = {name: round(number, 1) for name, number in found.items()}
    said = {
        "name": "interaction",
        "numbers": numbers,
        "ratio": round(ratio, 3),
        "budget": 1.0,
        "ok": ratio <= 1,
    }
    print(json.dumps(said | {"load": round(os.getloadavg()[0], 1)}))
    return 0 if ratio <= 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
