"""Thousands of runs as a busy team would leave them, made up but believable.

`python benchmarks/_many.py --home DIR [--runs 10000]` fills the database of that KDWEB_HOME (made if it is
not there) and adds a user `many`, password `many-many-many`. The newest runs have curves to look at.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import _team
import numpy as np
from _team import NETWORKS, Ground

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
CURVES = 60  # of the newest runs
# Methods: what they win over the control, in accuracy, and their own parameters.
METHODS: dict[str, tuple[float, dict[str, list[Any]]]] = {
    "kd": (0.012, {"temperature": [1.0, 2.0, 4.0, 8.0]}),
    "dkd": (0.021, {"alpha": [0.5, 1.0], "beta": [2.0, 6.0, 8.0], "temperature": [2.0, 4.0]}),
    "fitnet": (0.006, {"student_layer": ["stage2"], "teacher_layer": ["stage2"]}),
    "at": (0.010, {"power": [2.0]}),
    "crd": (0.019, {"dim": [64, 128], "temperature": [0.07, 0.1]}),
    "rkd": (0.008, {"distance": [25.0], "angle": [50.0]}),
    "kd+at": (0.015, {"temperature": [2.0, 4.0]}),
}
SERIES = [
    "loss/total", "loss/task", "loss/kd", "train/top1", "val/top1", "val/top5", "val/loss", "lr", "weight/kd",
    "throughput", "gradient_norm", "ema/top1", "system/cpu", "system/memory", "system/gpu0/utilisation",
    "system/gpu0/memory", "system/gpu0/temperature", "system/gpu0/power", "time/data", "time/step",
]  # fmt: skip
TAGS = (
    "ship",
    "baseline",
    "paper",
    "sweep",
    "ablation",
    "rerun",
    "to-check",
    "low-lr",
    "final",
    "seed-study",
)
STATUSES = {
    "succeeded": 0.865, "failed": 0.05, "cancelled": 0.03, "running": 0.015, "paused": 0.01,
    "queued": 0.02, "preparing": 0.002, "draft": 0.003, "lost": 0.005,
}  # fmt: skip


def fill(runs: int = 10_000, seed: int = 0, name: str = "Many runs") -> Any:
    """Makes a project with so many runs in the database Django speaks to, and gives it back."""
    from django.db import connection, transaction

    from experiments import database

    random = np.random.default_rng(seed)
    with transaction.atomic():
        ground = _team.prepare(name)
        made = list(_runs(ground, runs, random))
        _values(made)
        _series(made, random)
        _marks(ground, made, random)
        _curves(made[-CURVES:], random)
    database.describe(0)  # what the sweep does
    if connection.vendor == "postgresql":  # which does it by itself, a minute later
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    return ground.project


def _runs(ground: Ground, number: int, random: np.random.Generator) -> Iterator[Any]:
    """Families: one question, asked with three to five seeds, and their control."""
    from experiments.models import Run

    made: list[Any] = []
    while len(made) < number:
        made += _family(ground, len(made), random)
    del made[number:]
    start = _now() - timedelta(days=120)
    gap = timedelta(days=120) / number
    states = random.choice(list(STATUSES), number, p=list(STATUSES.values()))
    for place, (run, state) in enumerate(zip(made, states, strict=True)):
        run.created = start + gap * place
        # The oldest have long ended: only lately something can be under way.
        _lived(run, str(state) if place > number * 0.8 or state in Run.ENDED else "succeeded", random)
    controls = [run for run in made if run.purpose == "control"]
    others = [run for run in made if run.purpose != "control"]
    for batch in (controls, others):
        for run in batch:
            run.control_id = run.control.pk if run.control else None
        Run.objects.bulk_create(batch, batch_size=200)
    yield from made


def _now() -> Any:
    from django.utils import timezone

    return timezone.now()


def _family(ground: Ground, place: int, random: np.random.Generator) -> list[Any]:
    from experiments.models import Run

    def pick(items: Sequence[Any]) -> Any:
        return items[int(random.integers(len(items)))]

    data, network, method = pick(ground.datasets), pick(list(NETWORKS)[:6]), pick(list(METHODS))
    teacher, owner = pick(ground.teachers[data.pk]), pick(ground.people)
    training = _training(random)
    objective = _objective(method, random)
    shared: dict[str, Any] = {
        "project": ground.project, "dataset": data, "architecture_id": network, "owner": owner,
        "student": ground.students[network], "experiment": pick([None, *ground.experiments]),
    }  # fmt: skip
    alone = objective | {"terms": [], "task_weight": 1.0}
    control = Run(
        **shared, name=f"{network} alone · {place}", purpose="control", training=training, objective=alone
    )
    luck = float(random.normal(0, 0.006))
    control.accuracy = _reached(data.name, network, 0.0, luck, training, random)
    runs = [control]
    for seed in range(int(random.integers(3, 6))):
        run = Run(
            **shared, name=f"{network} ← {teacher.architecture_id} · {method} · {place} · seed {seed}",
            purpose="distil", teacher=teacher, control=control, method_keys=method, objective=objective,
            training=training | {"seed": seed},
        )  # fmt: skip
        run.accuracy = _reached(data.name, network, METHODS[method][0], luck, training, random)
        runs.append(run)
    return runs


def _training(random: np.random.Generator) -> dict[str, Any]:
    from worker.distill.spec import Training

    def choose(*of: Any) -> Any:
        return of[int(random.integers(len(of)))]

    return Training(
        epochs=choose(60, 120, 240), batch_size=choose(64, 128, 256), optimizer=choose("sgd", "sgd", "adamw"),
        learning_rate=round(float(10 ** random.uniform(-2.3, -0.8)), 4),
        weight_decay=choose(1e-4, 5e-4, 1e-3), schedule=choose("cosine", "step"),
        warmup_epochs=choose(0.0, 5.0), mixup=choose(0.0, 0.0, 0.2), precision=choose("fp32", "bf16"),
    ).model_dump()  # fmt: skip


def _objective(method: str, random: np.random.Generator) -> dict[str, Any]:
    from worker.distill.spec import Objective, Term

    terms = []
    for key in method.split("+"):
        options = METHODS[key][1]
        params = {name: values[int(random.integers(len(values)))] for name, values in options.items()}
        terms.append(Term(method=key, weight=round(float(random.uniform(0.3, 1.0)), 1), params=params))
    smoothing = 0.1 if random.random() < 0.2 else 0.0
    task = round(float(random.uniform(0.1, 1.0)), 1)
    return Objective(task_weight=task, label_smoothing=smoothing, terms=terms).model_dump()


def _reached(
    data: str, network: str, won: float, luck: float, training: dict[str, Any], random: np.random.Generator
) -> float:
    """Off the best rate it is worse; more epochs help a little; seeds scatter."""
    off = abs(np.log10(training["learning_rate"] / 0.05))
    value = _team.best(data, network) + won + luck - 0.02 * off + 0.004 * np.log2(training["epochs"] / 120)
    return round(float(np.clip(value + random.normal(0, 0.0025), 0.1, 0.999)), 4)


def _lived(run: Any, state: str, random: np.random.Generator) -> None:
    """Its times, progress and results, as the state has them."""
    steps = 390 * run.training["epochs"]
    took = timedelta(seconds=float(steps * random.uniform(0.008, 0.03)))
    run.status = "running" if state == "lost" else state
    run.silent_since = _now() - timedelta(minutes=7) if state == "lost" else None
    run.total_steps, run.epoch_steps = steps, 390
    share = 1.0 if state == "succeeded" else float(random.uniform(0.1, 0.9))
    if state in ("queued", "draft", "preparing"):
        share, run.accuracy = 0.0, None
    run.step = int(steps * share)
    run.epoch = run.step // 390
    if share:
        run.started = run.created + timedelta(seconds=20)
        run.metrics = {name: _summary(name, run, share, random) for name in SERIES}
    if state in ("succeeded", "failed", "cancelled"):
        run.finished = run.created + timedelta(seconds=20) + took * share
    elif share:
        run.started = _now() - took * share
        run.rate, run.eta = 5200.0, took.total_seconds() * (1 - share)
        run.phase = "training"
    if state == "failed":
        run.reason, run.accuracy = "loss/total is NaN at step 1,204. Use a smaller learning rate.", None
    if state in ("running", "paused", "cancelled", "lost") and run.accuracy:
        run.accuracy = round(run.accuracy * (0.8 + 0.15 * share), 4)
    size, flops, _, _ = NETWORKS[run.architecture_id]
    if state == "succeeded":
        own = _team.network(
            run.architecture_id,
            run.accuracy,
            run.step + int(took.seconds),
            run.dataset,
            random.random() < 0.3,
        )
        run.results = {"student": own, "teacher": None, "stages": [], "steps": steps, "device": "NVIDIA L4"}
        if run.teacher:
            own |= {"agreement": round(run.accuracy * 0.98, 4), "kl": round(1.4 * (1 - run.accuracy), 4)}
            run.results["teacher"] = run.teacher.metrics
        run.parameters, run.bytes, run.flops = size, own["bytes"], flops
        run.latency_ms = own["latency_p50_ms"]


def _summary(name: str, run: Any, share: float, random: np.random.Generator) -> dict[str, Any]:
    accuracy = run.accuracy or 0.4
    last = {
        "val/top1": accuracy * (0.8 + 0.2 * share), "val/top5": 0.5 + accuracy / 2,
        "train/top1": accuracy + 0.02, "ema/top1": accuracy,
        "lr": run.training["learning_rate"] * (1 - share),
        "loss/total": 3 * (1 - accuracy), "loss/task": 2.2 * (1 - accuracy), "loss/kd": 1.2 * (1 - accuracy),
        "val/loss": 2 * (1 - accuracy),
    }.get(name, float(random.uniform(0.3, 90)))  # fmt: skip
    last = round(last * float(random.normal(1, 0.004)), 5)
    low, high = (0.4 * last, min(1.0, last * 1.002)) if "top" in name else (last * 0.97, last * 2.5)
    last = min(last, high)
    best = high if "top" in name else low if "loss" in name else None
    return {"last": last, "best": best, "min": low, "max": high, "step": run.step}


# --- Rows by the hundred thousand ---------------------------------------------------------------------------
def insert(model: Any, rows: Iterable[dict[str, Any]]) -> None:
    """As bulk_create, at a third of its time."""
    from django.db import connection

    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    default = {f.attname: f.get_db_prep_save(f.get_default(), connection) for f in fields}
    columns = ", ".join(connection.ops.quote_name(field.column) for field in fields)
    places = ", ".join(["%s"] * len(fields))
    statement = f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} ({columns}) VALUES ({places})"
    names = [field.attname for field in fields]
    with connection.cursor() as cursor:
        batch: list[tuple[Any, ...]] = []
        for row in rows:
            whole = default | row
            batch.append(tuple(whole[name] for name in names))
            if len(batch) == 5000:
                cursor.executemany(statement, batch)
                batch = []
        if batch:
            cursor.executemany(statement, batch)


def _values(runs: list[Any]) -> None:
    from experiments import run_values
    from experiments.models import RunValue

    insert(
        RunValue,
        (
            {"run_id": row.run_id, "key": row.key, "number": row.number, "text": row.text}
            for run in runs
            for row in run_values.rows(run)
        ),
    )


def _series(runs: list[Any], random: np.random.Generator) -> None:
    from experiments.models import Series

    insert(
        Series,
        (
            {"run_id": run.pk, "name": name, "count": found["step"], "last_step": found["step"]}
            | {key: found[key] for key in ("last", "best", "min", "max")}
            for run in runs[:-CURVES]
            for name, found in run.metrics.items()
        ),
    )


def _marks(ground: Ground, runs: list[Any], random: np.random.Generator) -> None:
    """Tags, stars, archive and trash."""
    from django.contrib.auth.models import User

    from experiments.models import Run, Star, Tag

    tags = [Tag.objects.create(project=ground.project, name=name) for name in TAGS]
    through = Tag.runs.through
    pairs = {
        (run.pk, tags[int(place)].pk)
        for run in runs
        if random.random() < 0.3
        for place in random.integers(len(tags), size=2)
    }
    insert(through, ({"run_id": run, "tag_id": tag} for run, tag in pairs))
    people = [*ground.people, User.objects.get(username="many")]
    stars = {(run.pk, person.pk) for run in runs for person in people if random.random() < 0.02}
    insert(Star, ({"run_id": run, "user_id": person} for run, person in stars))
    for shelf, share in (("archive", 0.03), ("trash", 0.01)):
        away = [run.pk for run in runs if run.status in Run.ENDED and random.random() < share]
        for begin in range(0, len(away), 500):
            Run.objects.filter(pk__in=away[begin : begin + 500]).update(shelf=shelf, shelved=_now())


def _curves(runs: list[Any], random: np.random.Generator) -> None:
    """Points for the newest runs, so that pages that draw have something to draw."""
    from experiments import metric_store
    from experiments.models import Run

    for run in runs:
        if not run.metrics:
            continue
        steps = np.unique(np.linspace(1, max(2, run.step), 400).astype(np.int64))
        wall = run.started.timestamp() + np.linspace(0, 3600, len(steps))
        new = {}
        for name, found in run.metrics.items():
            begin = found["min"] if "top" in name or "lr" in name else found["max"]
            course = found["last"] + (begin - found["last"]) * np.exp(-4 * steps / steps[-1])
            noise = random.normal(0, 0.02 * abs(found["last"]) + 1e-6, len(steps))
            new[name] = metric_store.Points(steps, course + noise * (steps < steps[-1]), wall)
        status = run.status
        Run.objects.filter(pk=run.pk).update(status="running")  # points are taken of a run at work only
        series = metric_store.append(run.pk, run.fence, new)
        kept = {name: metric_store.summary(one) for name, one in series.items()}
        Run.objects.filter(pk=run.pk).update(status=status, metrics=kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True, help="the KDWEB_HOME whose database is filled")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ |= {"KDWEB_HOME": asked.home, "DJANGO_SETTINGS_MODULE": "kdweb.settings"}
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    begin = time.perf_counter()
    project = fill(asked.runs, asked.seed)
    print(f"{asked.runs} runs in the project “{project}” after {time.perf_counter() - begin:.0f} s.")


if __name__ == "__main__":
    main()
