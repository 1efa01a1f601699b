"""`manage.py demo`: everything on this machine, with a project in which distillation has just happened."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from experiments.demo_check import check_by_http
from experiments.models import Run
from experiments.scenario import Scenario, ScenarioError, table
from kdweb.stack import Site, run_stack
from kdweb.supervise import StackError

TRAINING = {"epochs": 12, "batch_size": 64, "learning_rate": 0.05}
STUDENT = "resnet8"


class Command(BaseCommand):
    help = "Starts everything with a demo project: digits, a teacher, its student, and the student alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--port", type=int, help="Port of the web server (default: KDWEB_PORT, else 8000)."
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="Wait for the runs, check them through HTTP, print them, end.",
        )
        parser.add_argument("--patience", type=float, default=900, help="Seconds to wait with --check.")

    def handle(self, *args: Any, **options: Any) -> None:
        def on_ready(site: Site) -> int | None:
            try:
                return self.demonstrate(site, check=options["check"], patience=options["patience"])
            except ScenarioError as error:
                self.say(f"✗ {error}")
                return 1 if options["check"] else None
            finally:
                connection.close()

        try:
            code = run_stack(on_ready, port=options["port"], say=self.say)
        except StackError as error:
            raise CommandError(str(error)) from error
        sys.exit(code)

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
        owner = get_user_model()._default_manager.filter(is_superuser=True).order_by("pk").first()
        assert owner is not None, "run_stack makes the first administrator"
        words = "A small network learns handwritten digits from a larger one, and alone."
        scenario = Scenario("Demo", "demo", words, owner, self.say)
        digits = scenario.dataset("Digits", "digits", description="1,797 handwritten digits of 8×8 pixels")
        student = scenario.student(STUDENT, "Small enough for a microcontroller")
        teacher = scenario.teacher("Digits teacher", digits, "resnet8x4", TRAINING)
        common = {
            "dataset": digits.pk,
            "student": student.pk,
            "teacher": teacher.pk,
            "training": TRAINING,
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

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
