"""`manage.py study`: Fashion-MNIST through the whole system, three seeds each, and the page that says so."""

from __future__ import annotations

import platform
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from django.conf import settings

from experiments.management.stack_command import StackCommand, administrator
from experiments.models import Run, Teacher
from experiments.scenario import Scenario, table

TEACHER, STUDENT = "vgg8", "resnet8"
TEACHER_TRAINING = {
    "epochs": 3,
    "batch_size": 128,
    "learning_rate": 0.05,
    "warmup_epochs": 0.2,
    "augment": False,
}
STUDENT_TRAINING = {
    "epochs": 2,
    "batch_size": 128,
    "learning_rate": 0.1,
    "warmup_epochs": 0.2,
    "augment": False,
}
SEEDS = 3
KD = {"task_weight": 0.1, "terms": [{"method": "kd", "weight": 0.9, "params": {"temperature": 4.0}}]}


class Command(StackCommand):
    help = (
        "Trains a teacher and distils it on Fashion-MNIST through queue and worker; writes docs/results.md."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("source", type=Path, help="Folder with the four IDX files of Fashion-MNIST.")
        parser.add_argument("--write", type=Path, default=settings.BASE_DIR / "docs" / "results.md")

    def handle(self, *args: Any, **options: Any) -> None:
        self.run(options["port"], lambda site: self.study(options["source"], options["write"]))

    def study(self, source: Path, page: Path) -> int:
        words = "Does a student a tenth of the size learn more from a teacher than alone?"
        scenario = Scenario("Fashion-MNIST study", "fashion-mnist-study", words, administrator(), self.say)
        began = time.time()
        dataset = scenario.dataset("Fashion-MNIST", "fashion_mnist", source_folder=str(source.resolve()))
        teacher = scenario.teacher(f"{TEACHER} teacher", dataset, TEACHER, TEACHER_TRAINING)
        scenario.ask(
            name=f"{STUDENT} from {TEACHER}",
            dataset=dataset.pk,
            student=scenario.student(STUDENT).pk,
            teacher=teacher.pk,
            training=STUDENT_TRAINING,
            objective=KD,
            seeds=SEEDS,
            control="run",
        )
        runs = scenario.wait(patience=3 * 3600)
        self.say(f"\n{table(runs)}\n")
        if failed := [run for run in runs if run.status != Run.Status.SUCCEEDED]:
            self.say(f"✗ {len(failed)} runs did not succeed")
            return 1
        teacher.refresh_from_db()
        page.write_text(report(teacher, runs, time.time() - began), encoding="utf-8")
        self.say(f"✓ written to {page}")
        return 0


def report(teacher: Teacher, runs: list[Run], seconds: float) -> str:
    """The page, from what was measured; no number in it is written by hand."""
    distilled = [run for run in runs if run.purpose == Run.Purpose.DISTIL]
    controls = [run for run in runs if run.purpose == Run.Purpose.CONTROL]
    gains = [run.gain for run in distilled if run.gain is not None]
    trained = [run for run in runs if run.purpose == Run.Purpose.TEACHER]
    student = distilled[0].results["student"]
    ratios = distilled[0].compression()
    rows = [
        row(f"teacher {TEACHER}", [teacher.score or 0], trained, teacher.metrics),
        row(f"student {STUDENT} alone (control)", [r.accuracy or 0 for r in controls], controls, student),
        row(
            f"student {STUDENT} distilled (kd, T = 4, α = 0.9)",
            [r.accuracy or 0 for r in distilled],
            distilled,
            student,
        ),
    ]
    each = ", ".join(f"{100 * gain:+.2f}" for gain in gains)
    smaller = ", ".join(f"{name} {value:.1f}×" for name, value in ratios.items())
    device = distilled[0].results.get("device", "unknown device")
    return f"""# Results

As measured by `manage.py study FOLDER` (FOLDER holds the four files of Fashion-MNIST): dataset, teacher,
controls and students go through the ordinary queue and worker; the table is written from the database.
Test accuracy on the official 10,000 test images; 5,000 of the 60,000 training images are held out for
validation. Mean ± standard deviation over {SEEDS} seeds; student and control share architecture, budget, data
order and initial weights.

| network | test accuracy | parameters | bytes (fp32) | FLOPs | latency p50 | training time |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Distillation gain (student − its own control): **{spread(gains, signed=True)}** points; per seed {each}.
Compression, teacher ÷ student: {smaller}.

Teacher: {budget(trained[0])}. Students: {budget(distilled[0])}.
All of it took {seconds / 60:.0f} minutes on {device} ({platform.machine()}, one run at a time).
"""


def row(name: str, accuracies: list[float], runs: list[Run], measured: dict[str, Any]) -> str:
    seconds = mean(run.results["seconds"] for run in runs)
    cells = (
        name,
        f"{spread(accuracies)} %",
        f"{measured['parameters']:,}",
        f"{measured['bytes']:,}",
        f"{measured['flops']:,}",
        f"{measured['latency_p50_ms']:.2f} ms",
        f"{seconds / 60:.1f} min",
    )
    return f"| {' | '.join(cells)} |"


def spread(values: list[float], signed: bool = False) -> str:
    """Fractions as percent: mean ± standard deviation; the mean alone for one value."""
    sign = "+" if signed else ""
    middle = f"{100 * mean(values):{sign}.2f}"
    return middle if len(values) < 2 else f"{middle} ± {100 * stdev(values):.2f}"


def budget(run: Run) -> str:
    given = run.training
    return (
        f"{given['epochs']} epochs, batch {given['batch_size']}, {given['optimizer']}, peak learning rate "
        f"{given['learning_rate']}, {given['schedule']} schedule, augmentation "
        f"{'on' if given['augment'] else 'off'}"
    )
