"""The storm: thirty short runs on three workers while a seeded script breaks everything around them.

    python -m tests.faults.storm [--seed 1] [--minutes 5] [--runs 30] [--workers 3]

Workers are killed, frozen, deployed anew; engines are killed; Redis and PostgreSQL are killed, restarted,
emptied; the disk of the runs is filled; messages come twenty times. Then the weather clears and every run
must have ended, once, as its undisturbed twin did. The last line says so:
runs, kills, lost, doubled, differing, longest recovery. Exit code 1 unless all three are 0.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import django

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()

import psutil
import pytest

from experiments import lifecycle, queue
from experiments.database import AWAY, let_go
from experiments.models import Attempt, Run, Teacher
from experiments.models.catalogue import Readiness
from tests.experiments.make import a_teacher
from tests.faults.disks import Disk, small_disk
from tests.faults.site import Site, make_site
from tests.faults.templates import Template
from tests.faults.workers import WorkerProcess
from worker.distill.spec import Objective, Term, hinton

MEGABYTES = 192  # of the small disk that holds the runs
PAUSE = (4.0, 9.0)  # seconds between two blows


@dataclass
class Storm:
    """`blows` counts what was done, by name; `struck` remembers when a run lost its worker or engine."""

    site: Site
    dice: random.Random
    workers: list[WorkerProcess]
    disk: Disk | None
    runs: list[Run]
    blows: Counter[str] = field(default_factory=Counter)
    struck: list[tuple[int, float]] = field(default_factory=list)
    kills: int = 0

    def blow(self) -> None:
        """One fault, by the dice; whatever it needs to end is waited for."""
        kinds: list[tuple[int, Callable[[], None]]] = [
            (6, self.kill_worker),
            (3, self.kill_engine),
            (2, self.freeze_worker),
            (2, self.deploy_worker),
            (2, self.restart_redis),
            (1, self.flush_redis),
            (2, self.restart_database),
            (3, self.deliver_again),
            (2 if self.disk else 0, self.fill_disk),
        ]
        weights, acts = zip(*kinds, strict=True)
        act = self.dice.choices(acts, weights)[0]
        self.blows[act.__name__.replace("_", " ")] += 1
        act()

    # --- Blows ------------------------------------------------------------------------------------------
    def kill_worker(self) -> None:
        """SIGKILL; it comes back under its own name, or a new one comes and the lease must run out."""
        worker = self.dice.choice(self.workers)
        self._strike(worker)
        worker.kill(signal.SIGKILL)
        self.kills += 1
        time.sleep(self.dice.uniform(0, 3))
        if self.dice.random() < 0.5:
            worker.start(ready=False)
        else:
            self.workers[self.workers.index(worker)] = fresh = self.site.worker(
                f"w{len(self.site.processes)}"
            )
            fresh.start(ready=False)

    def kill_engine(self) -> None:
        """Only one that trains: two deaths at the very same step are taken for the run's own fault."""
        worker = self.dice.choice(self.workers)
        for one in worker.engines():
            if Run.objects.filter(lease_owner=worker.node, status="running", step__gt=0).exists():
                self._strike(worker)
                self.kills += with_suppress(one.kill)

    def freeze_worker(self) -> None:
        """Stopped for longer than lease and suspicion last; then it wakes and finds its run another's."""
        worker = self.dice.choice(self.workers)
        self._strike(worker)
        stopped = [one for one in worker.family() if with_suppress(one.suspend)]
        waking = threading.Timer(
            self.dice.uniform(35, 45), lambda: [with_suppress(o.resume) for o in stopped]
        )
        waking.daemon = True
        waking.start()

    def deploy_worker(self) -> None:
        """SIGTERM, and the next version comes up."""
        worker = self.dice.choice(self.workers)
        worker.signal(signal.SIGCONT)
        try:
            worker.terminate(seconds=40)
        except subprocess.TimeoutExpired:  # it was frozen a moment ago, or waits for the database
            worker.kill(signal.SIGKILL)
        worker.start(ready=False)

    def restart_redis(self) -> None:
        self.site.broker.kill()
        time.sleep(self.dice.uniform(0, 5))
        self.site.broker.start()

    def flush_redis(self) -> None:
        self.site.broker.flush()

    def restart_database(self) -> None:
        self.site.postgres.stop(self.dice.choice(("fast", "immediate")))
        time.sleep(self.dice.uniform(0, 12))
        self.site.postgres.start()

    def deliver_again(self) -> None:
        """Messages about one run, ended or not, twenty times."""
        run = self.dice.choice(self.runs)
        for _ in range(20):
            queue._send("worker.tasks.run", run.pk, queue.RUNS)

    def fill_disk(self) -> None:
        assert self.disk
        with_suppress(self.disk.fill)
        time.sleep(self.dice.uniform(4, 8))
        self.disk.clear()

    def _strike(self, worker: WorkerProcess) -> None:
        held = Run.objects.filter(lease_owner=worker.node, status__in=Run.ACTIVE)
        self.struck += [(pk, time.time()) for pk in held.values_list("pk", flat=True)]

    # --- Its course -------------------------------------------------------------------------------------
    def rage(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self.dice.uniform(*PAUSE))
            try:
                self.blow()
            except AWAY:
                let_go()
            self.revive()
            print(f"{max(0, until - time.monotonic()):4.0f} s  {self.state()}", flush=True)

    def revive(self) -> None:
        """What `manage.py up` does for a worker that has ended."""
        for worker in self.workers:
            if not worker.alive:
                worker.start(ready=False)

    def state(self) -> str:
        try:
            counts = Counter(
                Run.objects.filter(pk__in=[r.pk for r in self.runs]).values_list("status", flat=True)
            )
        except AWAY:
            let_go()
            return "the database is away"
        return ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))

    def calm(self, seconds: float) -> None:
        """Nothing is broken any more; everything that can end ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.revive()
            if (
                not Run.objects.filter(pk__in=[r.pk for r in self.runs])
                .exclude(status__in=Run.ENDED)
                .exists()
            ):
                return
            time.sleep(1)

    # --- The reckoning ----------------------------------------------------------------------------------
    def longest_recovery(self) -> float:
        """Seconds from a blow to the next attempt's start, the wait for a free worker included."""
        found = []
        for pk, at in self.struck:
            begun = [a.started.timestamp() for a in Attempt.objects.filter(run=pk)]
            later = [moment - at for moment in begun if moment > at]
            found += [min(later)] if later else []
        return max(found, default=0.0)

    def reckon(self) -> int:
        lost, doubled, differing = [], [], []
        for run in Run.objects.filter(pk__in=[r.pk for r in self.runs]):
            if run.status != Run.Status.SUCCEEDED:
                lost.append(f"{run.name}: {run.state}. {run.reason}")
                continue
            ends = run.events.filter(status__in=Run.ENDED).count()
            if ends != 1 or run.attempts.filter(outcome="succeeded").count() != 1:
                doubled.append(f"{run.name}: ended {ends} times")
            try:
                self.site.assert_same(run)
            except AssertionError as error:
                differing.append(f"{run.name}: {error}")
        for line in (*lost, *doubled, *differing):
            print(line)
        done = ", ".join(f"{n} × {name}" for name, n in sorted(self.blows.items()))
        print(f"blows: {done}")
        outcomes = Counter(Attempt.objects.values_list("outcome", flat=True))
        print("attempts: " + ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items())))
        print(
            f"storm: {len(self.runs)} runs, {self.kills} kills, {len(lost)} lost, {len(doubled)} doubled, "
            f"{len(differing)} differing, longest recovery {self.longest_recovery():.0f} s"
        )
        return 1 if lost or doubled or differing else 0


def with_suppress(act: Callable[[], object]) -> bool:
    """Does it, if the process or the disk lets it."""
    try:
        act()
    except (psutil.Error, OSError):
        return False
    return True


# --- What trains in it ------------------------------------------------------------------------------------
def a_ready_teacher(site: Site) -> Teacher:
    """Trained in the quiet before the storm."""
    made = a_teacher(dataset=site.digits, status=Readiness.PREPARING)
    run = site.ended(site.start_run("teacher", epochs=4, purpose=Run.Purpose.TEACHER, makes=made))
    assert run.status == Run.Status.SUCCEEDED, run.reason
    return Teacher.objects.get(pk=made.pk)


def drafts(site: Site, teacher: Teacher, count: int) -> list[Run]:
    """Of six kinds: alone, distilled by outputs, by features, mixed, averaged, with another optimiser."""
    feature = Objective(terms=[Term(method="fitnet", weight=1.0), Term(method="kd", weight=0.9)])
    distilled = {"purpose": Run.Purpose.DISTIL, "teacher": teacher}
    kinds: list[tuple[str, dict[str, object]]] = [
        ("alone", {}),
        ("kd", distilled | {"objective": hinton().model_dump()}),
        ("fitnet", distilled | {"objective": feature.model_dump()}),
        ("mixup", {"training": {"mixup": 0.2, "augment": True}}),
        ("averaged", {"training": {"ema_decay": 0.99, "augment": True}}),
        ("adamw", {"training": {"optimizer": "adamw", "learning_rate": 0.001}}),
    ]
    made = []
    for number in range(count):
        name, values = kinds[number % len(kinds)]
        made.append(site.draft(f"{name} {number}", epochs=24, **values))
    return made


def a_small_disk(site: Site, stack: ExitStack) -> Disk | None:
    """For the runs, of a few checkpoints' size; None where we may not mount one."""
    try:
        return stack.enter_context(small_disk(site.home / "runs", MEGABYTES))
    except pytest.skip.Exception as reason:
        print(f"The disk is not filled: {reason}.")
        return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--workers", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdweb-storm-") as folder, ExitStack() as stack:
        template = Template(Path(folder))
        stack.callback(template.close)
        site = stack.enter_context(make_site(template, "postgresql"))
        disk = a_small_disk(site, stack)
        workers = [site.worker(f"w{n}").start() for n in range(asked.workers)]
        teacher = a_ready_teacher(site)
        storm = Storm(site, random.Random(asked.seed), workers, disk, drafts(site, teacher, asked.runs))
        for run in storm.runs:
            site.twin(run)
        for run in storm.runs:
            assert lifecycle.submit(run, "storm")
        storm.rage(asked.minutes * 60)
        storm.calm(900)
        return storm.reckon()


if __name__ == "__main__":
    sys.exit(main())
