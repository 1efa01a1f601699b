"""What belongs to a run as it is worked on: its attempts, the files they left, its history."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .runs import Run


class Attempt(models.Model):
    """One try of a worker at a run; its number is the run's fence while it may write."""

    class Outcome(models.TextChoices):
        SUCCEEDED = "succeeded", _("Succeeded")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")
        PAUSED = "paused", _("Paused")
        HANDED_BACK = "handed back", _("Handed back")
        LOST = "lost", _("Lost")
        CRASHED = "crashed", _("Crashed")
        HUNG = "hung", _("Hung")

    # Ended without a word of its own: tried again, but not for ever.
    BAD = (Outcome.LOST, Outcome.CRASHED, Outcome.HUNG)

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    worker = models.CharField(max_length=200)
    device = models.CharField(max_length=200, blank=True)
    started = models.DateTimeField(auto_now_add=True)
    ended = models.DateTimeField(null=True, blank=True)
    from_step = models.PositiveIntegerField(default=0, help_text="Of the checkpoint it went on from.")
    step = models.PositiveIntegerField(default=0, help_text="How far it was when it ended.")
    outcome = models.CharField(max_length=20, blank=True, choices=Outcome)
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="one_attempt_a_number")]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.run}"

    @property
    def took(self) -> timedelta:
        """From its begin to its end, or until now."""
        return max((self.ended or timezone.now()) - self.started, timedelta())


class Artifact(models.Model):
    """A file a run left: a checkpoint to resume from, or the student's weights."""

    class Kind(models.TextChoices):
        RESUME = "resume", _("Resume checkpoint")
        STUDENT = "student", _("Student weights")

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="artifacts")
    kind = models.CharField(max_length=10, choices=Kind)
    path = models.CharField(max_length=500, help_text="Below the data folder.")
    sha256 = models.CharField(max_length=64)
    bytes = models.BigIntegerField()
    step = models.PositiveIntegerField()
    fence = models.PositiveIntegerField()
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-step", "-pk"]
        constraints = [models.UniqueConstraint(fields=["run", "path"], name="one_artifact_a_path")]

    def __str__(self) -> str:
        return self.path

    @property
    def full_path(self) -> Path:
        return Path(settings.KDWEB_DATA) / self.path


class AppendOnly(models.QuerySet["RunEvent"]):
    """Rows that are written once. They go with their run, and not otherwise."""

    def update(self, **values: Any) -> int:
        raise TypeError("The history of a run is never changed.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError("The history of a run is never shortened.")


class RunEvent(models.Model):
    """What happened to a run, in order; never changed."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    text = models.CharField(max_length=500)
    status = models.CharField(max_length=10)
    actor = models.CharField(max_length=200, blank=True, help_text="A person or a worker.")

    objects = AppendOnly.as_manager()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.text

    def save(self, *args: Any, **values: Any) -> None:
        if self.pk is not None:
            raise TypeError("The history of a run is never changed.")
        super().save(*args, **values)
