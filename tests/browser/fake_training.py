"""A training without torch: claims a run as a worker would and feeds its recorder what an engine would say.

python -m tests.browser.fake_training RUN --steps 2000 --per-second 100 [--until STEP] [--nan-at STEP]
[--inf-at STEP] [--stage-until STEP]. Measures the machine every ten steps, as a second each.
Prints a line a second of steps: `step wall`.
"""

from __future__ import annotations

import argparse
import math
import random
import time

import django

django.setup()

from experiments import lifecycle  # noqa: E402
from experiments.models import Run  # noqa: E402
from experiments.recorder import Recorder  # noqa: E402
from worker.distill.events import Log, Metrics, Phase, Progress  # noqa: E402

PER_EPOCH = 100


def values_at(step: int, steps: int, nan_at: int, inf_at: int) -> dict[str, float | None]:
    rng = random.Random(step)
    way = step / steps
    ce = 2.2 * math.exp(-5 * way) + 0.12 + 0.08 * rng.random()
    kd = 6.0 * math.exp(-6 * way) + 0.5 + 0.4 * rng.random()
    total = 0.1 * ce + 0.9 * kd + (30 if step == 613 else 0)
    lr = 0.05 * 0.5 * (1 + math.cos(math.pi * way))
    rate = 9000 + 700 * rng.random()
    values: dict[str, float | None] = {"loss/total": total, "loss/ce": ce, "loss/kd": kd, "lr": lr}
    values["throughput"] = rate
    if step == nan_at:
        values["loss/total"] = None
    if step == inf_at:
        values["loss/kd"] = math.inf
    values["grad/norm"] = 1.0 + rng.random()  # no chart file knows it
    return values


def epoch_values(step: int, steps: int, best: float) -> dict[str, float | None]:
    way = step / steps
    wobble = 0.01 * random.Random(-step).random()
    top1 = best - 0.75 * math.exp(-7 * way) - wobble
    loss = 1.9 * math.exp(-5 * way) + 0.2 + wobble
    return {"train/top1": min(1.0, top1 + 0.02), "val/top1": top1, "val/loss": loss}


def block(recorder: Recorder, first: int, last: int, args: argparse.Namespace) -> None:
    steps = list(range(first, last + 1))
    wall = [time.time()] * len(steps)
    rows = [values_at(step, args.steps, args.nan_at, args.inf_at) for step in steps]
    recorder.feed(Metrics(steps=steps, wall=wall, values={k: [row[k] for row in rows] for k in rows[0]}))
    for step in steps:
        if step % 10 == 0:
            load = {"system/cpu": [50.0 + step % 40], "system/memory": [8e9 + 1e6 * step]}
            recorder.feed(Metrics(steps=[step // 10], wall=wall[:1], values=load))
        if step == args.stage_until:
            recorder.feed(Phase(name="training"))
        if step % PER_EPOCH == 0:
            at_epoch = epoch_values(step, args.steps, args.best)
            recorder.feed(Metrics(steps=[step], wall=wall[:1], values={k: [v] for k, v in at_epoch.items()}))
            text = f"epoch {step // PER_EPOCH}: val/top1 {at_epoch['val/top1']:.4f}"
            recorder.feed(Log(text=text, wall=time.time()))
    epochs = args.steps // PER_EPOCH
    left = (args.steps - last) / args.per_second
    recorder.feed(
        Progress(
            step=last, total_steps=args.steps, epoch=last // PER_EPOCH, epochs=epochs, rate=9200.0, eta=left
        )
    )


def measured(best: float, factor: float, rng: random.Random) -> dict[str, object]:
    per_class = [min(1.0, best + 0.08 * (rng.random() - 0.5)) for _ in range(10)]
    return {
        "top1": best,
        "top5": None,
        "loss": 0.2,
        "per_class": per_class,
        "split": "test",
        "parameters": int(78_042 * factor),
        "bytes": int(320_000 * factor),
        "flops": int(25_000_000 * factor),
        "latency_p50_ms": 0.9 * factor**0.5,
        "latency_p95_ms": 1.2 * factor**0.5,
        **judged(per_class),
    }


def judged(per_class: list[float]) -> dict[str, object]:
    """A hundred samples a class; what is wrong is taken for the next class."""
    rows = [[0] * 10 for _ in range(10)]
    for c, accuracy in enumerate(per_class):
        rows[c][c] = round(100 * accuracy)
        rows[c][(c + 1) % 10] = 100 - rows[c][c]
    bins = [None] * 12 + [
        {"count": 100 * n, "confidence": 0.7 + 0.1 * n, "accuracy": 0.3 * n} for n in (1, 2, 3)
    ]
    return {"confusion": rows, "reliability": bins, "ece": 0.07}


def result(args: argparse.Namespace, teacher: bool) -> dict[str, object]:
    rng = random.Random(7)
    return {
        "student": measured(args.best, 1.0, rng),
        "teacher": measured(0.981, 12.4, rng) if teacher else None,
        "steps": args.steps,
        "device": "cpu",
        "seconds": 20.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=int)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--until", type=int)
    parser.add_argument("--per-second", type=float, default=100.0)
    parser.add_argument("--best", type=float, default=0.962)
    parser.add_argument("--nan-at", type=int, default=-1)
    parser.add_argument("--inf-at", type=int, default=-1)
    parser.add_argument("--stage-until", type=int, default=0, help="The first stage's last step.")
    args = parser.parse_args()
    run = Run.objects.get(pk=args.run)  # this very one, whoever's turn it is
    assert lifecycle.take(run, "a test", "cpu"), "the run cannot be claimed"
    run.refresh_from_db()
    recorder = Recorder(run)
    recorder.feed(Phase(name="first stage" if args.stage_until else "training"))
    recorder.feed(Log(text="Training begins <b>here</b>.", wall=time.time()))
    begin, done, until = time.monotonic(), 0, args.until or args.steps
    while done < until:
        due = min(until, int((time.monotonic() - begin) * args.per_second))
        if due > done:
            block(recorder, done + 1, due, args)
            print(due, time.time(), flush=True)
            done = due
        recorder.tick()
        time.sleep(0.02)
    recorder.close()
    if until == args.steps:
        lifecycle.succeed(run.pk, run.fence, result(args, run.teacher_id is not None))


main()
