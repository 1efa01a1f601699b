"""Curves and console lines. Points live in compressed chunks at several resolutions (`metric_store`)."""

from __future__ import annotations

from django.db import models

from .runs import Run


class Series(models.Model):
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="series")
    name = models.CharField(max_length=120)
    unit = models.CharField(max_length=20, blank=True)
    count = models.PositiveBigIntegerField(default=0)
    last_step = models.PositiveBigIntegerField(default=0)
    last = models.FloatField(null=True)
    best = models.FloatField(null=True)
    min = models.FloatField(null=True)
    max = models.FloatField(null=True)
    odd = models.JSONField(
        default=list,
        help_text='Where it is not finite: [[first step, last step, "nan", "inf" or "-inf"], …].',
    )

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="one_series_a_name")]
        # Runs are sorted by a metric from this alone.
        indexes = [
            models.Index(fields=["name", "run", "last", "best", "min", "max"], name="summaries_of_a_metric")
        ]

    def __str__(self) -> str:
        return self.name


class MetricChunk(models.Model):
    """Level 0: up to 4,096 points as logged. Level k: minimum and maximum of each 64-point bucket below."""

    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="chunks")
    level = models.PositiveSmallIntegerField()
    seq = models.PositiveIntegerField()
    first_step = models.PositiveBigIntegerField()
    last_step = models.PositiveBigIntegerField()
    n = models.PositiveIntegerField()
    fence = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["series", "level", "seq"], name="one_chunk_a_place")]
        indexes = [models.Index(fields=["series", "level", "first_step"])]

    def __str__(self) -> str:
        return f"{self.series} level {self.level} chunk {self.seq}"


class LogLine(models.Model):
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="log")
    n = models.PositiveIntegerField()
    wall = models.FloatField(help_text="Unix time.")
    level = models.CharField(max_length=10)
    text = models.TextField()

    class Meta:
        ordering = ["n"]
        constraints = [models.UniqueConstraint(fields=["run", "n"], name="one_line_a_number")]

    def __str__(self) -> str:
        return self.text[:80]
