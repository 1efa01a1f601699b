"""A site of its own for the benchmarks that need one: a private Redis, a database, scikit-learn's digits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def site(database_url: str = "") -> Iterator[Path]:
    """Its data folder. Within, Django speaks to its database: SQLite, or the one named."""
    with tempfile.TemporaryDirectory(prefix="kdweb-bench-") as name:
        os.environ |= {
            "KDWEB_HOME": name,
            "DJANGO_SETTINGS_MODULE": "kdweb.settings",
            "KDWEB_DATABASE_URL": database_url,
        }
        import django

        from kdweb import embedded_redis

        with embedded_redis.running(Path(name)) as url:
            os.environ["KDWEB_REDIS_URL"] = url
            django.setup()
            from django.core.management import call_command

            call_command("migrate", verbosity=0)
            yield Path(name)


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise SystemExit(f"nothing after {seconds} s")
        time.sleep(0.05)
    return found


@contextmanager
def worker(home: Path, name: str = "bench") -> Iterator[subprocess.Popen[bytes]]:
    """One run worker that takes short work as well."""
    argv = [sys.executable, "-m", "celery", "-A", "kdweb", "worker", "-n", f"{name}@here", "-c", "1"]
    with (home / f"{name}.log").open("ab") as log:
        process = subprocess.Popen([*argv, "-Q", "cpu,control"], cwd=ROOT, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def spare_is_warm(pid: int) -> bool:
    """Its engine waits for work: there is one, and it has stopped computing."""
    import psutil

    family = psutil.Process(pid).children(recursive=True)
    spares = [one for one in family if "serve" in one.cmdline()]
    before = [sum(one.cpu_times()[:2]) for one in spares]
    time.sleep(0.5)
    return bool(spares) and before == [sum(one.cpu_times()[:2]) for one in spares] and min(before) > 1.0


def prepared() -> Any:
    """The digits, made ready by a worker."""
    from experiments import queue
    from experiments.models import Dataset, Project, Worker

    wait_for(Worker.objects.exists)  # and with it the networks it offers
    project = Project.objects.create(name="Benchmark", slug="benchmark")
    dataset = Dataset.objects.create(project=project, name="digits", kind="digits")
    queue.send_dataset(dataset)
    wait_for(lambda: Dataset.objects.filter(pk=dataset.pk).exclude(status="preparing").exists())
    dataset.refresh_from_db()
    assert dataset.status == "ready", dataset.error
    return dataset


def start(dataset: Any, epochs: int) -> Any:
    """A small training, submitted."""
    from experiments import lifecycle
    from experiments.models import Run
    from worker.distill.spec import Objective, Training

    run = Run.objects.create(
        project=dataset.project,
        dataset=dataset,
        architecture_id="resnet8",
        name="a run",
        purpose=Run.Purpose.CONTROL,
        training=Training(epochs=epochs).model_dump(),
        objective=Objective().model_dump(),
    )
    lifecycle.submit(run, "benchmark")
    return run


def succeeded(run: Any, seconds: float = 300.0) -> Any:
    """The run when it has ended."""
    from experiments.models import Run

    done = wait_for(lambda: Run.objects.filter(pk=run.pk, status__in=Run.ENDED).first(), seconds)
    assert done.status == "succeeded", done.reason
    return done
