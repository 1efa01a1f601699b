"""Workers as they announce themselves, and the pulse of what happens every few seconds."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from .runs import Run

SILENT_AFTER = timedelta(seconds=30)


class WorkerManager(models.Manager["Worker"]):
    """`alive` comes with every row, by the database's clock: the machines' own may disagree by minutes."""

    def get_queryset(self) -> models.QuerySet[Worker]:
        heard = models.Q(heartbeat__gte=Now() - SILENT_AFTER)
        alive = models.ExpressionWrapper(heard, output_field=models.BooleanField())
        return super().get_queryset().annotate(alive=alive)

    def alive(self) -> models.QuerySet[Worker]:
        return self.filter(heartbeat__gte=Now() - SILENT_AFTER)

    def taking(self) -> models.QuerySet[Worker]:
        """Those that would take a run now or when they have ended theirs."""
        return self.alive().filter(drain=False, trouble="")


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
    drain = models.BooleanField(default=False, help_text="A person asked it to take no further run.")
    trouble = models.TextField(blank=True, help_text="Why it takes no run: its device was lost …")

    objects = WorkerManager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Pulse(models.Model):
    """When something periodic was last done, and by whom: any process may do it, one does."""

    name = models.CharField(max_length=50, primary_key=True)
    at = models.DateTimeField()
    by = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return self.name
