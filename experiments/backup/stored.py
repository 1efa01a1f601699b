"""What rows say of files: which one, where, of what hash. Both for a backup and for the check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from experiments.models import Artifact, Dataset, Teacher, Upload


@dataclass(frozen=True)
class Stored:
    """A file that a row names."""

    path: str  # below the data folder
    what: str  # as a person would say it
    sha256: str = ""  # where the row knows it
    run: int | None = None  # of a checkpoint to resume from: its run and step
    step: int = 0


def root() -> Path:
    return Path(settings.KDWEB_DATA)


def named() -> list[Stored]:
    """Every file that must be there for the rows to be true. One that two rows name stands here once."""
    found = (*_datasets(), *_teachers(), *_artifacts(), *_uploads())
    return list({one.path: one for one in found}.values())


def _artifacts() -> Iterator[Stored]:
    for one in Artifact.objects.order_by("pk"):
        what = f"{one.get_kind_display().lower()} of run {one.run_id} at step {one.step}"
        run = one.run_id if one.kind == Artifact.Kind.RESUME else None
        yield Stored(one.path, what, one.sha256, run, one.step)


def _teachers() -> Iterator[Stored]:
    for one in Teacher.objects.filter(status=Teacher.Status.READY).exclude(weights=""):
        yield Stored(one.weights, f"weights of the teacher “{one.name}”", one.sha256)


def _uploads() -> Iterator[Stored]:
    """Those that arrived whole and wait for a worker. One still on its way begins anew after a restore."""
    for one in Upload.objects.filter(status=Upload.Status.CHECKING):
        yield Stored(f"uploads/{one.pk}", f"upload “{one.filename}”")


def _datasets() -> Iterator[Stored]:
    for one in Dataset.objects.filter(status=Dataset.Status.READY):
        # What the row promises, there or not; then whatever else the engine put beside it.
        sizes = one.info.get("sizes", {})
        names = [f"{split}_{part}.npy" for split in sizes if sizes[split] for part in ("images", "labels")]
        names += [sample for samples in one.info.get("samples", {}).values() for sample in samples]
        names += [path.relative_to(one.folder).as_posix() for path in regular_files(one.folder)]
        for name in sorted({"meta.json", *names}):
            yield Stored(f"datasets/{one.pk}/{name}", f"part of the dataset “{one.name}”")


def regular_files(folder: Path) -> Iterator[Path]:
    """Files below the folder; links are neither followed nor given."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def find(path: str) -> Path | None:
    """The file of that name, if it is one and lies below the data folder: a row may name anything."""
    full = root() / path
    below = full.resolve().is_relative_to(root().resolve())
    return full if below and full.is_file() else None


def lacking(wanted: Iterable[Stored], there: Callable[[Stored], bool]) -> list[Stored]:
    """Those that are not there and should be.

    The engine keeps two checkpoints of a run and drops older ones before their rows go: an older one that
    is gone is no loss while the run has a newer.
    """
    wanted = list(wanted)
    gone = {one for one in wanted if not there(one)}
    newest: dict[int, int] = {}
    for one in wanted:
        if one.run is not None and one not in gone:
            newest[one.run] = max(one.step, newest.get(one.run, 0))
    return [one for one in wanted if one in gone and (one.run is None or one.step > newest.get(one.run, -1))]


def consequence(one: Stored, wanted: Iterable[Stored], bad: Iterable[Stored]) -> str:
    """What a lost checkpoint means for its run; nothing for other files."""
    if one.run is None:
        return ""
    lost = set(bad)
    left = [other.step for other in wanted if other.run == one.run and other not in lost]
    if not left:
        return " It was the last one: the run can only begin anew."
    newest = max(left)
    return f" The run goes on from the checkpoint at step {newest}." if newest < one.step else ""
