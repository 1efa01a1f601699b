"""Work asked for by a script instead of a person: the demo, and the studies behind docs/results.md.

Everything goes through the ordinary door (`planning.create`) and the ordinary queue. What is there already is
taken as it is, so that a script that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from experiments import planning, queue
from experiments.models import Architecture, Dataset, Membership, Project, Role, Run, Student, Teacher

Say = Callable[[str], None]


class ScenarioError(RuntimeError):
    """The script cannot go on; the message is for a person."""


class Scenario:
    """A project and a person; asks, waits, and says what happens."""

    def __init__(self, name: str, slug: str, description: str, owner: AbstractBaseUser, say: Say) -> None:
        self.owner, self.say = owner, say
        self.project, _ = Project.objects.get_or_create(
            slug=slug, defaults={"name": name, "description": description}
        )
        Membership.objects.get_or_create(
            project=self.project, user_id=owner.pk, defaults={"role": Role.MAINTAINER}
        )

    def dataset(self, name: str, kind: str, **values: Any) -> Dataset:
        """The dataset, prepared by a worker if it is new or failed before."""
        dataset, new = Dataset.objects.get_or_create(
            project=self.project, name=name, defaults={"kind": kind, "owner_id": self.owner.pk, **values}
        )
        if dataset.status == Dataset.Status.FAILED:
            Dataset.objects.filter(pk=dataset.pk).update(status=Dataset.Status.PREPARING, error="", **values)
        if new or dataset.status == Dataset.Status.FAILED:
            queue.send_dataset(dataset)
        while (dataset := Dataset.objects.get(pk=dataset.pk)).status == Dataset.Status.PREPARING:
            time.sleep(0.3)
        if dataset.status == Dataset.Status.FAILED:
            raise ScenarioError(f"Dataset {name} could not be prepared: {dataset.error}")
        return dataset

    def student(self, architecture: str, description: str = "") -> Student:
        student, _ = Student.objects.get_or_create(
            project=self.project,
            name=architecture,
            defaults={
                "architecture": Architecture.objects.get(pk=architecture),
                "owner_id": self.owner.pk,
                "description": description,
            },
        )
        return student

    def teacher(self, name: str, dataset: Dataset, architecture: str, training: dict[str, Any]) -> Teacher:
        """A teacher in the making: runs that learn from it may be asked for at once, and wait."""
        found = Teacher.objects.filter(project=self.project, name=name).exclude(status=Teacher.Status.FAILED)
        if not found.exists():
            Teacher.objects.filter(project=self.project, name=name, runs__isnull=True).delete()
            self.ask(
                name=name, purpose="teacher", dataset=dataset.pk, architecture=architecture, training=training
            )
        return Teacher.objects.get(project=self.project, name=name)

    def ask(self, **values: Any) -> list[Run]:
        """Runs of this plan; those that stand there by name and have not failed are not made again."""
        plan = planning.Plan.model_validate({"project": self.project.pk, **values})
        known = (
            self.runs()
            .filter(name__startswith=plan.name)
            .exclude(status__in=[Run.Status.FAILED, Run.Status.CANCELLED])
        )
        if known.count() >= plan.seeds:
            return list(known)
        try:
            return planning.create(plan, self.owner)
        except planning.PlanError as error:
            raise ScenarioError(f"{plan.name}: {error}") from error

    def runs(self) -> Any:
        return Run.objects.filter(project=self.project).order_by("pk")

    def wait(self, patience: float) -> list[Run]:
        """Until every run of the project has ended, or `patience` seconds are over. Says each change."""
        seen: dict[int, str] = {}
        deadline = time.monotonic() + patience
        while True:
            runs = list(self.runs().select_related("teacher", "control", "dataset"))
            self._say_changes(runs, seen)
            if all(run.ended for run in runs):
                return runs
            if time.monotonic() > deadline:
                waiting = ", ".join(f"{run.name} ({run.state})" for run in runs if not run.ended)
                raise ScenarioError(f"Not done after {patience:.0f} s: {waiting}")
            time.sleep(0.5)

    def _say_changes(self, runs: Iterable[Run], seen: dict[int, str]) -> None:
        for run in runs:
            if seen.get(run.pk) != run.state and (run.pk in seen or not run.ended):
                why = f": {run.reason}" if run.reason and run.ended else ""
                self.say(f"  {run.name}: {run.state}{why}")
            seen[run.pk] = run.state


def table(runs: Iterable[Run]) -> str:
    """run, status, accuracy, parameters, bytes, FLOPs and compression, as aligned text."""
    head = ("run", "status", "accuracy", "parameters", "bytes", "FLOPs", "compression")
    rows = [head, *(_row(run) for run in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(_aligned(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])


def _row(run: Run) -> tuple[str, ...]:
    ratio = run.compression().get("parameters")
    numbers = [f"{value:,}" if value is not None else "–" for value in (run.parameters, run.bytes, run.flops)]
    return (
        run.name,
        run.status,
        "–" if run.accuracy is None else f"{100 * run.accuracy:.2f} %",
        *numbers,
        "–" if ratio is None else f"{ratio:.1f}×",
    )


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
