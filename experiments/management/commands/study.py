"""`manage.py study`: every method on Fashion-MNIST through the whole system, and the page that says so."""

from __future__ import annotations

import platform
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from django.conf import settings

from experiments import measurements, recipes
from experiments.forms.schema import with_defaults
from experiments.management.stack_command import StackCommand, administrator
from experiments.models import Attempt, Dataset, Method, Run, Teacher
from experiments.scenario import Scenario, ScenarioError

TEACHER, STUDENT = "vgg8", "resnet8"
TRAINING = {
    "batch_size": 64,
    "learning_rate": 0.05,
    "warmup_epochs": 0.5,
    "augment": False,
}
TEACHER_EPOCHS = 3  # times the students'
IN_EPOCHS = ("prelude_epochs", "warmup_epochs", "loops")  # parameters of methods that count epochs


class Command(StackCommand):
    help = "Trains a teacher on Fashion-MNIST and a student by every method; writes docs/results.md."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("source", type=Path, help="Folder with the four IDX files of Fashion-MNIST.")
        parser.add_argument("--write", type=Path, default=settings.BASE_DIR / "docs" / "results.md")
        parser.add_argument("--training", type=int, default=2000, help="Training images (default: 2000).")
        parser.add_argument("--epochs", type=int, default=4, help="Of each student (default: 4).")
        parser.add_argument("--seeds", type=int, default=3, help="Runs a method (default: 3).")
        parser.add_argument("--methods", default="", help="Keys, by commas (default: all).")

    def handle(self, *args: Any, **options: Any) -> None:
        self.run(options["port"], lambda site: self.study(**options))

    def study(
        self,
        source: Path,
        write: Path,
        training: int,
        epochs: int,
        seeds: int,
        methods: str,
        **_: Any,
    ) -> int:
        words = "How much does a student fifty times smaller learn by each method?"
        scenario = Scenario("Fashion-MNIST study", "fashion-mnist-study", words, administrator(), self.say)
        began = time.time()
        dataset = scenario.dataset(
            f"Fashion-MNIST, {training}",
            "fashion_mnist",
            source_folder=str(source.resolve()),
            options={"training": training, "validation": 1000},
        )
        teacher = scenario.teacher(
            f"{TEACHER} teacher", dataset, TEACHER, TRAINING | {"epochs": TEACHER_EPOCHS * epochs}
        )
        asked = [key for key in methods.split(",") if key]
        for key in asked or Method.objects.filter(available=True).order_by("key").values_list(
            "key", flat=True
        ):
            scenario.ask(
                name=f"{STUDENT} by {key}",
                dataset=dataset.pk,
                student=scenario.student(STUDENT).pk,
                teacher=teacher.pk,
                training=TRAINING | {"epochs": epochs},
                objective=objective(key, epochs),
                seeds=seeds,
                control="run",
            )
        runs = scenario.wait(patience=8 * 3600)
        teacher.refresh_from_db()
        write.write_text(report(dataset, teacher, runs, time.time() - began), encoding="utf-8")
        self.say(f"✓ written to {write}")
        return 0


def objective(key: str, epochs: int) -> dict[str, Any]:
    """The method's first recipe for any pair. What it counts in epochs is shortened as the run is."""
    method = Method.objects.filter(key=key).first()
    found = [recipe for recipe in recipes.of(method) if not recipe.pair] if method else []
    if method is None or not found:
        raise ScenarioError(f"{key}: there is no such method with a recipe for any pair of networks.")
    preset = found[0].preset
    share = epochs / preset.training["epochs"]
    whole = preset.objective.model_copy(deep=True)
    for term in whole.terms:
        params = with_defaults(method.schema, term.params) if term.method == key else term.params
        shortened = {name: params[name] * share for name in IN_EPOCHS if name in params}
        if "prelude_epochs" in shortened:
            shortened["prelude_epochs"] = max(1, round(shortened["prelude_epochs"]))
        term.params = params | shortened
    return whole.model_dump()


def report(dataset: Dataset, teacher: Teacher, runs: list[Run], seconds: float) -> str:
    """The page, from what was measured; no number in it is written by hand."""
    controls = [run for run in runs if run.purpose == Run.Purpose.CONTROL]
    distilled = [run for run in runs if run.purpose == Run.Purpose.DISTIL]
    trained = [run for run in runs if run.purpose == Run.Purpose.TEACHER]
    keys = sorted({run.method_keys for run in distilled})
    by_key = {key: [run for run in distilled if run.method_keys == key] for key in keys}
    order = sorted(keys, key=lambda key: -mean(accuracies(by_key[key]) or [0.0]))
    rows = [
        network_row(f"teacher {TEACHER}", [measurements.score(teacher.metrics) or 0], trained),
        network_row(f"{STUDENT} alone (control)", accuracies(controls), controls),
        *(method_row(key, by_key[key]) for key in order),
    ]
    sizes = dataset.info["sizes"]
    some = next(run for run in distilled if run.results)
    ratios = {name: f"{value:.1f}×" for name, value in some.compression().items()}
    device = some.results.get("device", "unknown device")
    workers = Attempt.objects.filter(run__in=runs).values("worker").distinct().count()
    return f"""# Results

As measured by `manage.py study FOLDER` (FOLDER holds the four files of Fashion-MNIST): dataset, teacher,
controls and students go through the ordinary queue and worker; the table is written from the database.

Teacher {TEACHER}, student {STUDENT}: {ratios["parameters"]} fewer parameters, {ratios["flops"]} fewer FLOPs.
{sizes["train"]:,} of the 60,000 training images, {sizes["val"]:,} more for validation, accuracy on the
official {sizes["test"]:,} test images. Mean ± standard deviation over the seeds; a student and its control
share architecture, budget, data order and initial weights. Each method has its published weights and
temperatures, and of what it counts in epochs the same share of the run; one with a first stage trains that
much longer. The learning rate is one for all, whatever a recipe says: where a method's weight is too large
for it, the student shows it. A budget this small says how the methods behave in it, not which is best.

| network or method | test accuracy | gain over control | agreement with teacher | training time |
|---|---|---|---|---|
{chr(10).join(rows)}

Teacher: {budget(trained[0])}. Students: {budget(some)}.
All of it took {seconds / 60:.0f} minutes on {workers} worker{"s" if workers != 1 else ""}, each {device}
({platform.machine()}).
"""


def accuracies(runs: list[Run]) -> list[float]:
    return [run.accuracy for run in runs if run.accuracy is not None]


def network_row(name: str, values: list[float], runs: list[Run]) -> str:
    return f"| {name} | {spread(values)} % | | | {minutes(runs)} |"


def method_row(key: str, runs: list[Run]) -> str:
    """A run that failed is said, with its reason, and counts in no mean."""
    failed = [run for run in runs if run.accuracy is None]
    gains = [run.gain for run in runs if run.gain is not None]
    students = [run.results["student"] for run in runs if run.results]
    alike = [student["agreement"] for student in students if student.get("agreement") is not None]
    cells = [
        f"{spread(accuracies(runs))} %" if len(failed) < len(runs) else "–",
        f"{spread(gains, signed=True)}" if gains else "–",
        f"{spread(alike)} %" if alike else "–",
        minutes(runs),
    ]
    note = f" ({len(failed)} of {len(runs)} failed: {failed[0].reason})" if failed else ""
    return f"| {key}{note} | {' | '.join(cells)} |"


def minutes(runs: list[Run]) -> str:
    seconds = [run.results["seconds"] for run in runs if run.results]
    return f"{mean(seconds) / 60:.1f} min" if seconds else "–"


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
