"""`manage.py demo`: everything on this machine, with a project in which distillation has just happened."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from experiments.demo_check import check_by_http
from experiments.management.stack_command import StackCommand, administrator
from experiments.models import Run
from experiments.scenario import Scenario, table
from kdweb.stack import Site

TEACHER_TRAINING = {"epochs": 12, "batch_size": 64, "learning_rate": 0.05}
# A small budget is where a teacher helps most; and nobody waits long.
STUDENT_TRAINING = TEACHER_TRAINING | {"epochs": 4}
STUDENT = "resnet8"


class Command(StackCommand):
    help = "Starts everything with a demo project: digits, a teacher, its student, and the student alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--check",
            action="store_true",
            help="Wait for the runs, check them through HTTP, print them, end.",
        )
        parser.add_argument("--patience", type=float, default=900, help="Seconds to wait with --check.")

    def handle(self, *args: Any, **options: Any) -> None:
        check = options["check"]
        patience = options["patience"] if check else float("inf")
        self.run(options["port"], lambda site: self.demonstrate(site, check=check, patience=patience))

    def demonstrate(self, site: Site, *, check: bool, patience: float) -> int | None:
        scenario = self.prepare()
        self.say("The demo's runs (watch them in the browser):")
        runs = scenario.wait(patience)
        self.say(f"\n{table(runs)}\n")
        if not check:
            self.say(f"Open {site.url} and start your own run. Ctrl-C stops everything.")
            return None
        problems = [
            f"{run.name} ended {run.status}: {run.reason}"
            for run in runs
            if run.status != Run.Status.SUCCEEDED
        ]
        problems += check_by_http(site.url, scenario.project, runs)
        for problem in problems:
            self.say(f"✗ {problem}")
        self.say(
            "✗ the demo is not as it should be" if problems else "✓ every run is there, with charts and CSV"
        )
        return 1 if problems else 0

    def prepare(self) -> Scenario:
        """Asks for what is not there yet; a second start finds everything."""
        words = "A small network learns handwritten digits from a larger one, and alone."
        scenario = Scenario("Demo", "demo", words, administrator(), self.say)
        digits = scenario.dataset("Digits", "digits", description="1,797 handwritten digits of 8×8 pixels")
        student = scenario.student(STUDENT, "Small enough for a microcontroller")
        teacher = scenario.teacher("Digits teacher", digits, "resnet8x4", TEACHER_TRAINING)
        common = {
            "dataset": digits.pk,
            "student": student.pk,
            "teacher": teacher.pk,
            "training": STUDENT_TRAINING,
            "control": "run",
        }
        kd = {"task_weight": 0.1, "terms": [{"method": "kd", "weight": 0.9, "params": {"temperature": 4.0}}]}
        two_part = {
            "task_weight": 0.0,
            "terms": [
                {"method": "fitnet", "weight": 0.5},
                {"method": "kd", "weight": 0.5, "params": {"temperature": 4.0}},
            ],
        }
        scenario.ask(name="resnet8 from the digits teacher", objective=kd, **common)
        scenario.ask(name="resnet8, features and outputs", objective=two_part, **common)
        return scenario
