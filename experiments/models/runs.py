"""Experiments, and runs with their teachers. Status is written by `lifecycle` alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from experiments import measurements

from .catalogue import Architecture, Dataset, Student, Teacher
from .team import InProjectQuerySet, Project

COLOURS = 20  # of curves, in tokens.css
# What compression is said of → the key of the engine's measurement.
COSTS = {
    "parameters": "parameters",
    "bytes": "bytes",
    "bytes_fp16": "bytes_fp16",
    "bytes_int8": "bytes_int8",
    "flops": "flops",
    "peak_memory": "peak_memory",
    "latency": "latency_p50_ms",
    "throughput": "throughput",
}


# What lists sort and filter by. An index holds it for them: a row drags kilobytes of JSON along, which
# SQLite walks through for every column behind it. What changes each second (step, epoch) stays outside.
# The key belongs to it: PostgreSQL reads an index alone only where all that is asked for stands in it.
FACE = (
    "created", "started", "finished", "name", "status", "silent_since", "purpose", "method_keys", "accuracy",
    "parameters", "bytes", "flops", "latency_ms", "architecture", "student", "teacher", "control", "dataset",
    "owner", "experiment",
)  # fmt: skip


# What rankings and Pareto charts read of a finished run.
MODEL = (
    "purpose", "accuracy", "parameters", "bytes", "flops", "latency_ms", "teacher", "project",
)  # fmt: skip


class Experiment(models.Model):
    """A named group of runs with a question."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="experiments")
    name = models.CharField(max_length=100)
    question = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)

    objects = InProjectQuerySet["Experiment"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="one_experiment_a_name")]

    def __str__(self) -> str:
        return self.name


class RunQuerySet(InProjectQuerySet["Run"]):
    def shown(self) -> RunQuerySet:
        """Those in neither the archive nor the trash: what lists and charts of a project are about."""
        return self.filter(shelf=Run.Shelf.NONE)


class Run(models.Model):
    """One training. A student under a teacher, a control (no teacher), or a teacher in the making."""

    class Purpose(models.TextChoices):
        DISTIL = "distil", _("Distilled student")
        CONTROL = "control", _("Control")
        TEACHER = "teacher", _("Teacher")

    class Status(models.TextChoices):
        DRAFT = "draft", _("Draft")
        QUEUED = "queued", _("Queued")
        PREPARING = "preparing", _("Preparing")
        RUNNING = "running", _("Running")
        PAUSED = "paused", _("Paused")
        SUCCEEDED = "succeeded", _("Succeeded")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    class Asked(models.TextChoices):
        NOTHING = "", _("Nothing")
        PAUSE = "pause", _("Pause")
        STOP = "stop", _("Stop")

    class Hold(models.TextChoices):
        NOTHING = "", _("Nothing")
        PERSON = "person", _("A person")
        DISK = "disk", _("A full disk")

    class Shelf(models.TextChoices):
        NONE = "", _("At hand")
        ARCHIVE = "archive", _("Archive")
        TRASH = "trash", _("Trash")

    class Priority(models.IntegerChoices):
        LOW = -1, _("Low")
        NORMAL = 0, _("Normal")
        HIGH = 1, _("High")

    ACTIVE = (Status.PREPARING, Status.RUNNING)
    ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="runs")
    experiment = models.ForeignKey(
        Experiment, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs"
    )
    name = models.CharField(max_length=150)
    purpose = models.CharField(max_length=10, choices=Purpose)
    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="runs")
    architecture = models.ForeignKey(Architecture, on_delete=models.PROTECT, related_name="runs")
    student = models.ForeignKey(Student, null=True, blank=True, on_delete=models.PROTECT, related_name="runs")
    teacher = models.ForeignKey(
        Teacher,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="runs",
        help_text="Learnt from.",
    )
    more_teachers = models.ManyToManyField(
        Teacher,
        through="RunTeacher",
        blank=True,
        related_name="runs_beside",
        help_text="Learnt from as well.",
    )
    mixing = models.JSONField(default=dict, help_text="spec.Mixing: several teachers as one.")
    frozen_stages = models.PositiveSmallIntegerField(default=0, help_text="Of the student; 0: none.")
    makes = models.OneToOneField(
        Teacher,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="made_by",
        help_text="Teacher made.",
    )
    control = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="controlled",
        help_text="Its control.",
    )
    parent = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="clones",
        help_text="Cloned from.",
    )
    training = models.JSONField(default=dict, help_text="spec.Training, resolved.")
    objective = models.JSONField(default=dict, help_text="spec.Objective, resolved.")
    method_keys = models.CharField(
        max_length=300, blank=True, help_text="The objective's methods: kd+fitnet."
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="runs"
    )
    submission = models.UUIDField(
        null=True, unique=True, help_text="Given by the form: a double click makes one run."
    )

    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT, db_index=True)
    reason = models.TextField(
        blank=True, help_text="Why it ended or is paused, in words a person can act on."
    )
    phase = models.CharField(max_length=200, blank=True)
    asked = models.CharField(
        max_length=5, blank=True, choices=Asked, help_text="What a person wants of it while it runs."
    )
    hold = models.CharField(max_length=6, blank=True, choices=Hold, help_text="What keeps it paused.")
    inexact = models.TextField(
        blank=True, help_text="Why its result may differ from an undisturbed run's; empty: it does not."
    )
    priority = models.SmallIntegerField(default=Priority.NORMAL, choices=Priority)
    turn = models.PositiveIntegerField(default=0, help_text="Its place in the fair queue: see fair_queue.")
    created = models.DateTimeField(default=timezone.now)
    queued = models.DateTimeField(null=True, blank=True)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    fence = models.PositiveIntegerField(default=0, help_text="Number of the attempt that may write.")
    lease_owner = models.CharField(max_length=200, blank=True)
    lease_expires = models.DateTimeField(null=True, blank=True)
    silent_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when a sweep has seen the lease expired."
    )
    fresh_from = models.PositiveIntegerField(
        default=0, help_text="Attempts up to this number do not count as failed tries any more."
    )

    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    epoch = models.PositiveIntegerField(default=0)
    epoch_steps = models.PositiveIntegerField(default=0, help_text="Steps of an epoch; 0 until it is known.")
    rate = models.FloatField(null=True, help_text="Samples per second.")
    eta = models.FloatField(null=True, help_text="Seconds.")
    live_cursor = models.CharField(
        max_length=40, default="0-0", help_text="Live frames up to here are in the database."
    )
    metrics = models.JSONField(
        default=dict, help_text="{series: {last, best, min, max, step}}: lists read this."
    )
    results = models.JSONField(
        default=dict, help_text="The engine's Result: student, teacher, device, seconds."
    )
    accuracy = models.FloatField(null=True, help_text="Final top-1, or the best validation so far.")
    parameters = models.BigIntegerField(null=True)
    bytes = models.BigIntegerField(null=True)
    flops = models.BigIntegerField(null=True)
    latency_ms = models.FloatField(null=True, help_text="Median at batch 1.")

    shelf = models.CharField(max_length=7, blank=True, choices=Shelf, help_text="Where it was put away.")
    shelved = models.DateTimeField(null=True, blank=True, help_text="When it was put away.")
    notes = models.TextField(blank=True, help_text="Markdown.")
    notes_version = models.PositiveIntegerField(
        default=0, help_text="Counts the changes: who edits an older one is told."
    )
    notes_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    notes_saved = models.DateTimeField(null=True, blank=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-created", "-pk"]
        indexes = [
            models.Index(fields=["project", "shelf", "-created", "-id"], name="newest_runs"),
            models.Index(fields=["project", "shelf", "status", "silent_since"]),  # the runs page's counts
            models.Index(fields=["status", "-priority", "turn"]),
            models.Index(fields=["project", "shelf", *FACE, "id"], name="faces_of_runs"),
            models.Index(fields=["project", "shelf", "status", "finished"], name="ends_of_runs"),
            models.Index(fields=["dataset", "shelf", "status", *MODEL], name="models_of_a_dataset"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def colour(self) -> str:
        """Its curves' colour, the same on every page: neighbours in time get colours far apart."""
        return f"series-{self.pk * 7 % COLOURS + 1}"

    @property
    def folder(self) -> Path:
        return Path(settings.KDWEB_DATA) / "runs" / str(self.pk)

    @property
    def teachers(self) -> list[Teacher]:
        """All it learns from, the first one first."""
        others = [one.teacher for one in self.beside.all()] if self.pk else []
        return [self.teacher, *others] if self.teacher else []

    @property
    def lost(self) -> bool:
        """Its worker went silent. Said by a sweep, which reads the database's clock: ours may be wrong."""
        return self.status in self.ACTIVE and self.silent_since is not None

    @property
    def state(self) -> str:
        """The status as shown: `lost` where the lease ran out."""
        return "lost" if self.lost else self.status

    @property
    def ended(self) -> bool:
        return self.status in self.ENDED

    @property
    def measured(self) -> bool:
        """`accuracy` is the final evaluation, not the best validation so far."""
        return self.status == self.Status.SUCCEEDED

    @property
    def progress(self) -> float:
        """0 to 1."""
        if self.status == self.Status.SUCCEEDED:
            return 1.0
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0

    @property
    def epochs(self) -> int:
        """Of all its stages; after an early stop those it went through."""
        if self.epoch_steps and self.total_steps:
            return round(self.total_steps / self.epoch_steps)
        return int(self.training.get("epochs", 0))

    @property
    def stages(self) -> list[dict[str, Any]]:
        """[{name, first_step, last_step}] of a run that had more than the main part."""
        found: list[dict[str, Any]] = self.results.get("stages") or []
        return found if len(found) > 1 else []

    @property
    def teacher_accuracy(self) -> float | None:
        """Measured in this run if it has ended, else the teacher's own measurement on the same dataset."""
        own = measurements.score(self.results.get("teacher"))
        if own is not None or self.teacher is None or self.teacher.dataset_id != self.dataset_id:
            return own  # what a teacher scored on other data says nothing here
        return self.teacher.score

    @property
    def metric(self) -> str:
        """What `accuracy` is of this run: top-1 or mAP."""
        many = measurements.is_multi_label(self.results.get("student"))
        return "mAP" if many or self.dataset.multi_label else "top-1"

    @property
    def score_series(self) -> str:
        """The series that `accuracy` comes from while the run goes on."""
        return "val/map" if self.metric == "mAP" else "val/top1"

    @property
    def delta_teacher(self) -> float | None:
        """student − teacher, once the run has measured both."""
        teacher = self.teacher_accuracy
        if teacher is None or self.accuracy is None or not self.measured:
            return None
        return self.accuracy - teacher

    @property
    def took(self) -> timedelta | None:
        """From the first start to the end, or until now."""
        if self.started is None:
            return None
        return max((self.finished or timezone.now()) - self.started, timedelta())

    @property
    def gain(self) -> float | None:
        """Distillation gain: student − control, both measured at the end by the same code."""
        if self.control is None or self.accuracy is None or self.control.accuracy is None:
            return None
        if not (self.measured and self.control.measured):
            return None
        return self.accuracy - self.control.accuracy

    @property
    def gap_closed(self) -> float | None:
        """(student − control) / (teacher − control); undefined where the teacher is no better."""
        gain, teacher = self.gain, self.teacher_accuracy
        if gain is None or teacher is None or self.control is None or self.control.accuracy is None:
            return None
        gap = teacher - self.control.accuracy
        return gain / gap if gap > 0 else None

    def compression(self) -> dict[str, float]:
        """Teacher ÷ student for each cost that is measured on both; throughput: student ÷ teacher."""
        teacher: dict[str, Any] = self.results.get("teacher") or {}
        student: dict[str, Any] = self.results.get("student") or {}
        ratios = {
            name: teacher[key] / student[key]
            for name, key in COSTS.items()
            if teacher.get(key) and student.get(key)
        }
        if "throughput" in ratios:
            ratios["throughput"] = 1 / ratios["throughput"]  # the only one of which more is better
        return ratios


class RunTeacher(models.Model):
    """A further teacher of a run. Like the first one it may not be deleted while the run stands."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="beside")
    teacher = models.ForeignKey(Teacher, on_delete=models.PROTECT, related_name="beside")
    place = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["place"]
        verbose_name = "run"  # what a person is told of, when it keeps a teacher from being deleted
        constraints = [
            models.UniqueConstraint(fields=["run", "teacher"], name="a_teacher_once_a_run"),
            models.UniqueConstraint(fields=["run", "place"], name="one_teacher_a_place"),
        ]

    def __str__(self) -> str:
        return f"{self.teacher} beside the teacher of {self.run}"
