"""Short work a worker holds for a while: preparing a dataset, checking an upload, profiling a network."""

from __future__ import annotations

from django.db import models


class Leased(models.Model):
    """Who works on the row, until when, and how often it was begun. Runs have leases of their own kind."""

    lease_owner = models.CharField(max_length=100, blank=True, editable=False)
    lease_expires = models.DateTimeField(null=True, blank=True, editable=False)
    tries = models.PositiveSmallIntegerField(default=0, editable=False)

    class Meta:
        abstract = True
