"""Files that belong to rows: opened only below the data folder, gone with their row."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone

from .models import Dataset, Run, Teacher, Upload

ABANDONED = timedelta(days=1)


def open_stored(path: Path) -> BinaryIO:
    """The file, if it lies below the data folder. FileNotFoundError otherwise.

    Paths come from workers, which took them from what a stranger's archive made them write.
    """
    root, path = Path(settings.KDWEB_DATA).resolve(), path.resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise FileNotFoundError(path)
    return open(path, "rb")


@receiver(post_delete, sender=Dataset)
def remove_dataset(instance: Dataset, **_: Any) -> None:
    folder = instance.folder
    transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))


@receiver(post_delete, sender=Run)
def remove_run(instance: Run, **_: Any) -> None:
    folder = instance.folder
    transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))


@receiver(post_delete, sender=Upload)
def remove_upload(instance: Upload, **_: Any) -> None:
    path = instance.path
    transaction.on_commit(lambda: path.unlink(missing_ok=True))


@receiver(post_delete, sender=Teacher)
def remove_teacher(instance: Teacher, **_: Any) -> None:
    """Of an uploaded one. What a run trained is the run's file."""
    if instance.source == Teacher.Source.UPLOADED and instance.weights:
        path = instance.weights_path
        transaction.on_commit(lambda: path.unlink(missing_ok=True))


def sweep_uploads() -> None:
    """Drop uploads that nobody has continued for a day, with their bytes."""
    before = timezone.now() - ABANDONED
    for upload in Upload.objects.filter(status=Upload.Status.RECEIVING, created__lt=before):
        if not upload.path.exists() or upload.path.stat().st_mtime < before.timestamp():
            upload.delete()
