"""What a run is made of: datasets, teachers, students, and what the workers say they can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from experiments import measurements

from .leases import Leased
from .team import InProjectQuerySet, Project


class Method(models.Model):
    """A distillation method, published by the workers: forms, checks and help are rendered from it."""

    key = models.SlugField(primary_key=True, max_length=50)
    title = models.CharField(max_length=200)
    summary = models.TextField(blank=True)
    formula = models.TextField(blank=True)
    paper = models.CharField(max_length=300, blank=True)
    paper_url = models.URLField(blank=True)
    schema = models.JSONField(default=dict, help_text="JSON Schema of the parameters.")
    needs = models.JSONField(default=list)
    tasks = models.JSONField(default=dict)
    presets = models.JSONField(default=list, blank=True, help_text="Published recipes: spec.Preset.")
    available = models.BooleanField(default=True, help_text="A living worker offers it.")
    problem = models.TextField(blank=True, help_text="Why it could not be loaded.")

    class Meta:
        ordering = ["key"]

    def __str__(self) -> str:
        return self.key


class Architecture(models.Model):
    """A network architecture, published by the workers."""

    key = models.CharField(primary_key=True, max_length=200)
    title = models.CharField(max_length=200)
    family = models.CharField(max_length=100, db_index=True)
    source = models.CharField(max_length=20, db_index=True)
    min_image_size = models.PositiveIntegerField(default=1)
    summary = models.TextField(blank=True)
    paper = models.CharField(max_length=300, blank=True)
    parameters = models.BigIntegerField(null=True, help_text="At 3×32×32 and 10 classes.")
    flops = models.BigIntegerField(null=True, help_text="Forward pass, 2 × multiply-adds, at 3×32×32.")

    class Meta:
        ordering = ["family", "parameters", "key"]

    def __str__(self) -> str:
        return self.key


class ArchitectureProfile(Leased):
    """An architecture at one input: parameters, FLOPs, layers with shapes. Filled by a worker on demand."""

    class Status(models.TextChoices):
        WAITING = "waiting"
        READY = "ready"
        FAILED = "failed"

    architecture = models.ForeignKey(Architecture, on_delete=models.CASCADE, related_name="profiles")
    num_classes = models.PositiveIntegerField()
    in_channels = models.PositiveIntegerField()
    image_size = models.PositiveIntegerField()
    status = models.CharField(max_length=10, choices=Status, default=Status.WAITING)
    asked = models.DateTimeField(auto_now_add=True)
    parameters = models.BigIntegerField(null=True)
    flops = models.BigIntegerField(null=True)
    bytes = models.BigIntegerField(null=True)
    layers = models.JSONField(default=list, help_text="[{path, kind, shape}] in execution order.")
    stages = models.JSONField(default=list, help_text="[{path, shape}]: the natural distillation points.")
    error = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["architecture", "num_classes", "in_channels", "image_size"],
                name="one_profile_an_input",
            )
        ]

    def __str__(self) -> str:
        return f"{self.architecture_id} at {self.in_channels}×{self.image_size}² → {self.num_classes}"


class DatasetKind(models.Model):
    """A kind of dataset the workers can prepare, published by them."""

    key = models.SlugField(primary_key=True, max_length=50)
    title = models.CharField(max_length=200)
    summary = models.TextField(blank=True)
    schema = models.JSONField(default=dict, help_text="JSON Schema of the options.")
    source = models.CharField(max_length=20, help_text="bundled, download or upload")

    class Meta:
        ordering = ["title"]

    def __str__(self) -> str:
        return self.title


class Readiness(models.TextChoices):
    PREPARING = "preparing", _("Preparing")
    READY = "ready", _("Ready")
    FAILED = "failed", _("Failed")


class Dataset(Leased):
    """Images with labels, prepared once by a worker into the engine's own format."""

    Status = Readiness

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    kind = models.CharField(max_length=50)
    options = models.JSONField(default=dict, blank=True)
    source_folder = models.CharField(
        max_length=500, blank=True, help_text="Folder on the worker's machine, for kinds that read one."
    )
    status = models.CharField(max_length=10, choices=Readiness, default=Readiness.PREPARING)
    phase = models.CharField(max_length=200, blank=True)
    error = models.TextField(blank=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created = models.DateTimeField(auto_now_add=True)
    classes = models.JSONField(default=list, blank=True)
    channels = models.PositiveIntegerField(null=True)
    height = models.PositiveIntegerField(null=True)
    width = models.PositiveIntegerField(null=True)
    info = models.JSONField(
        default=dict,
        blank=True,
        help_text="sizes, mean, std, class_counts, augmentation, samples, warnings …",
    )
    fingerprint = models.CharField(max_length=64, blank=True)

    objects = InProjectQuerySet["Dataset"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="one_dataset_a_name")]

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        return Path(settings.KDWEB_DATA) / "datasets" / str(self.pk)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def multi_label(self) -> bool:
        """An image may show several of the classes, or none."""
        return bool(self.info.get("task") == "multi-label")


class Student(models.Model):
    """A small network the team wants to ship: an architecture and how its weights begin."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="students")
    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    architecture = models.ForeignKey(Architecture, on_delete=models.PROTECT, related_name="students")
    pretrained = models.BooleanField(default=False, help_text="Begin with the library's pretrained weights.")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created = models.DateTimeField(auto_now_add=True)

    objects = InProjectQuerySet["Student"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="one_student_a_name")]

    def __str__(self) -> str:
        return self.name


class Teacher(models.Model):
    """Trained weights to learn from: the product of a run, or an uploaded checkpoint."""

    Status = Readiness

    class Source(models.TextChoices):
        TRAINED = "trained", _("Trained here")
        UPLOADED = "uploaded", _("Uploaded")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="teachers")
    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    architecture = models.ForeignKey(Architecture, on_delete=models.PROTECT, related_name="teachers")
    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="teachers")
    source = models.CharField(max_length=10, choices=Source)
    status = models.CharField(max_length=10, choices=Readiness, default=Readiness.PREPARING)
    error = models.TextField(blank=True)
    weights = models.CharField(
        max_length=500, blank=True, help_text="Safetensors file, below the data folder."
    )
    sha256 = models.CharField(max_length=64, blank=True)
    metrics = models.JSONField(default=dict, blank=True, help_text="The engine's measurements of it.")
    notes = models.JSONField(default=dict, blank=True, help_text="What the import stripped and cast.")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    created = models.DateTimeField(auto_now_add=True)

    objects = InProjectQuerySet["Teacher"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="one_teacher_a_name")]

    def __str__(self) -> str:
        return self.name

    @property
    def weights_path(self) -> Path:
        return Path(settings.KDWEB_DATA) / self.weights

    @property
    def score(self) -> float | None:
        """Its top-1, or mAP on multi-label data."""
        return measurements.score(self.metrics)

    @property
    def metric(self) -> str:
        return "mAP" if measurements.is_multi_label(self.metrics) else "Accuracy"

    @property
    def measured(self) -> dict[str, Any]:
        """score, parameters, bytes, flops, latency …; empty until it is ready."""
        return dict(self.metrics)
