"""Which checkpoint a further attempt goes on from, and which files nobody needs any more."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from django.conf import settings

from . import lifecycle, measurements, metric_store, runspec
from .metric_store import Fenced
from .models import Artifact, Attempt, Run, Series

KEPT = 2  # of a run, whatever attempts they are of


class CheckpointsGone(Exception):
    """There were checkpoints and none is whole: only a person may decide to begin anew."""


def go_back(run: Run) -> None:
    """Before a further attempt: to the newest whole checkpoint that has a row, else to the start.

    Its file is put into the attempt's own folder, where the engine looks; points beyond it are forgotten and
    will be logged again. A checkpoint without a row does not count: points before it may not be written.
    Raises CheckpointsGone where there are rows and no file is what its row says.
    """
    folder = runspec.attempt_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _newest_whole(run)
    step = chosen.step if chosen else 0
    if chosen is not None:
        _put(chosen.full_path, folder / chosen.full_path.name)
    beyond = Series.objects.filter(run=run, last_step__gt=step)
    for series in beyond.exclude(name__startswith=measurements.SYSTEM):  # the machine's time never goes back
        metric_store.trim(series, step, run.fence)
    metrics = {series.name: metric_store.summary(series) for series in run.series.all()}
    best = measurements.best_validation(metrics)
    if not lifecycle.write(run.pk, run.fence, step=step, metrics=metrics, accuracy=best):
        raise Fenced(f"attempt {run.fence} of run {run.pk} may not write any more")
    Attempt.objects.filter(run=run, number=run.fence).update(from_step=step)
    _remove_leftovers(run)


def _newest_whole(run: Run) -> Artifact | None:
    """Every one that is passed over is said in the history."""
    found = list(run.artifacts.filter(kind=Artifact.Kind.RESUME).order_by("-step", "-pk"))
    for artifact in found:
        trouble = _trouble(artifact)
        if not trouble:
            return artifact
        words = f"The checkpoint of step {artifact.step} cannot be used: {trouble}."
        if not lifecycle.note(run.pk, run.fence, words):
            raise Fenced(f"attempt {run.fence} of run {run.pk} may not write any more")
    if found:
        folder = found[0].full_path.parent
        raise CheckpointsGone(
            f"None of its {len(found)} checkpoints can be used: {_trouble(found[0])}. Bring {folder} back "
            "from a backup and try again, or try again from the start."
        )
    return None


def _trouble(artifact: Artifact) -> str:
    """Why the file is not what the row says; nothing where it is."""
    try:
        with open(artifact.full_path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{artifact.full_path} cannot be read ({error.strerror})"
    return "" if digest == artifact.sha256 else f"{artifact.full_path} is damaged (its hash differs)"


def _put(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _remove_leftovers(run: Run) -> None:
    """What earlier attempts wrote by half, or had not said of yet: nobody goes on from it."""
    named = {artifact.full_path for artifact in run.artifacts.all()}
    for folder in run.folder.iterdir():
        if folder.name.isdecimal() and int(folder.name) < run.fence:
            for path in (*folder.glob(".writing-*"), *folder.glob("resume-*.pt")):
                if path not in named:
                    path.unlink(missing_ok=True)


def forget_old(run_id: int, fence: int) -> None:
    """The engine keeps its own last two; those of earlier attempts go as soon as this one has two."""
    mine: list[Artifact] = []
    found = Artifact.objects.filter(run_id=run_id, kind=Artifact.Kind.RESUME)
    for artifact in found.order_by("-step", "-pk"):
        if not artifact.full_path.exists():
            artifact.delete()
        elif artifact.fence == fence:
            mine.append(artifact)
        elif len(mine) >= KEPT:
            artifact.full_path.unlink(missing_ok=True)
            artifact.delete()
    if len(mine) >= KEPT:
        remove_folders(run_id, fence)


def remove_folders(run_id: int, fence: int) -> None:
    """Of earlier attempts, where no row names a file in it."""
    home = Path(settings.KDWEB_DATA) / "runs" / str(run_id)
    paths = Artifact.objects.filter(run_id=run_id).values_list("path", flat=True)
    named = {Path(path).parent.name for path in paths}
    for folder in home.iterdir() if home.exists() else ():
        if folder.name.isdecimal() and int(folder.name) < fence and folder.name not in named:
            shutil.rmtree(folder, ignore_errors=True)
