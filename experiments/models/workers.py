"""Workers as they announce themselves."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils import timezone

from .runs import Run

SILENT_AFTER = timedelta(seconds=30)


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> WorkerQuerySet:
        return self.filter(heartbeat__gte=timezone.now() - SILENT_AFTER)


class Worker(models.Model):
    """One Celery worker that takes runs; it heartbeats every few seconds, busy or idle."""

    name = models.CharField(max_length=200, primary_key=True)
    host = models.CharField(max_length=200)
    queue = models.CharField(max_length=50)
    device = models.CharField(max_length=200, blank=True, help_text="As a person names it.")
    device_kind = models.CharField(max_length=10, default="cpu")
    versions = models.JSONField(default=dict)
    started = models.DateTimeField(default=timezone.now)
    heartbeat = models.DateTimeField(default=timezone.now)
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    usage = models.JSONField(default=dict, help_text="cpu, memory … at the last heartbeat.")

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def alive(self) -> bool:
        return self.heartbeat >= timezone.now() - SILENT_AFTER
