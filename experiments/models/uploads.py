"""A file on its way in. It becomes a dataset or a teacher only after a worker has read it whole."""

from __future__ import annotations

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from .catalogue import Dataset, Teacher
from .leases import Leased
from .team import InProjectQuerySet, Project


class Upload(Leased):
    class Purpose(models.TextChoices):
        TEACHER = "teacher", _("Teacher checkpoint")
        DATASET = "dataset", _("Dataset archive")

    class Status(models.TextChoices):
        RECEIVING = "receiving", _("Receiving")
        CHECKING = "checking", _("Checking")
        DONE = "done", _("Done")
        REFUSED = "refused", _("Refused")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="uploads")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    purpose = models.CharField(max_length=10, choices=Purpose)
    filename = models.CharField(max_length=255)
    size = models.PositiveBigIntegerField(help_text="Bytes announced.")
    received = models.PositiveBigIntegerField(default=0)
    status = models.CharField(max_length=10, choices=Status, default=Status.RECEIVING)
    request = models.JSONField(default=dict, help_text="What it shall become: name, architecture, dataset …")
    phase = models.CharField(max_length=200, blank=True)
    error = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)
    dataset = models.ForeignKey(Dataset, null=True, on_delete=models.SET_NULL, related_name="uploads")
    teacher = models.ForeignKey(Teacher, null=True, on_delete=models.SET_NULL, related_name="uploads")

    objects = InProjectQuerySet["Upload"].as_manager()

    class Meta:
        ordering = ["-created"]

    def __str__(self) -> str:
        return self.filename

    @property
    def path(self) -> Path:
        return Path(settings.KDWEB_DATA) / "uploads" / str(self.pk)
