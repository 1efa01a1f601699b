"""Datasets to prepare, uploads to check, architectures to profile: a command of the engine each."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q

from experiments import jobs, lifecycle
from experiments.database import AWAY, let_go
from experiments.metric_store import Fenced
from experiments.models import Architecture, ArchitectureProfile, Dataset, Teacher, Upload
from experiments.models.catalogue import Readiness
from experiments.models.leases import Leased
from worker.distill.events import Event, Failed, Phase, Result, Stopped
from worker.distill.spec import ImportSpec, PrepareSpec, ProfileSpec, Strict
from worker.driving import SPARE, Watch, drive, in_full, insist

log = logging.getLogger(__name__)

CPU_SECONDS = 6 * 3600  # for reading and evaluating what somebody uploaded
FILE_BYTES = 64 << 30

Job = TypeVar("Job", bound=Leased)


class Refused(Exception):
    """The work cannot be done; the words are for the person who asked."""


class HandedBack(Exception):
    """The worker shuts down: another one shall do it."""


def perform(job: Job, act: Callable[[Job], None], refuse: Callable[[Job, str], bool]) -> None:
    """One try at a job that is held. Whatever happens, the row says how it ended."""
    try:
        if words := jobs.gave_up(job):
            raise Refused(words)
        act(job)
        SPARE.refill()
    except HandedBack:
        jobs.release(job)
    except AWAY as error:
        log.warning("The database is away (%s); somebody does it when it is back.", error)
        let_go()
        insist(lambda: jobs.release(job))
    except Fenced:
        return
    except Refused as refusal:
        words = str(refusal)
        insist(lambda: refuse(job, words))
        SPARE.refill()
    except Exception as error:
        words = f"The worker met an error of its own ({type(error).__name__}: {error}). Its log says more."
        insist(lambda: refuse(job, words))
        raise


def ask(job: Leased, worker: str, command: str, spec: Strict, *, strange: bool = False) -> dict[str, Any]:
    """The engine's answer. `strange`: it reads a file from outside, so it gets bounds."""
    said: dict[str, str] = {}

    def feed(event: Event) -> None:
        if isinstance(event, Phase) and hasattr(job, "phase"):
            said["phase"] = f"{event.name}: {event.detail}"[:200] if event.detail else event.name[:200]

    def stop_wanted() -> bool:
        if said and not jobs.renew(job, **said):
            raise Fenced("the job is another's")
        said.clear()
        return False

    watch = Watch(worker, lambda: jobs.renew(job), stop_wanted)
    engine = SPARE.take(command, spec.model_dump())
    try:
        if strange:
            engine.limit(cpu_seconds=CPU_SECONDS, file_bytes=FILE_BYTES)
        drive(engine, feed, lambda: None, watch)
        match engine.ending:
            case Result(data=data):
                return data
            case Failed() as failed:
                raise Refused(in_full(failed))
            case Stopped():
                raise HandedBack
        raise HandedBack if watch.drained else Refused(engine.reason())
    finally:
        engine.close()


# --- Datasets ---------------------------------------------------------------------------------------------
def prepare_dataset(dataset: Dataset, worker: str) -> None:
    shutil.rmtree(dataset.folder, ignore_errors=True)  # what an earlier try left
    spec = PrepareSpec(
        kind=dataset.kind,
        options=dataset.options,
        source=dataset.source_folder or None,
        output=str(dataset.folder.absolute()),
    )
    described = described_by(ask(dataset, worker, "prepare", spec))
    if insist(lambda: jobs.finish(dataset, phase="", error="", **described)):
        lifecycle.send_waiting(Q(dataset=dataset))


def refuse_dataset(dataset: Dataset, words: str) -> bool:
    return jobs.finish(dataset, status=Readiness.FAILED, phase="", error=words)


def described_by(result: dict[str, Any]) -> dict[str, Any]:
    """The engine's answer as the dataset's columns."""
    columns = ("classes", "channels", "height", "width", "fingerprint")
    info = {name: value for name, value in result.items() if name not in columns}
    return {name: result[name] for name in columns} | {"info": info, "status": Readiness.READY}


# --- Uploads ----------------------------------------------------------------------------------------------
def check_upload(upload: Upload, worker: str) -> None:
    make = make_teacher if upload.purpose == Upload.Purpose.TEACHER else make_dataset
    if not upload.path.exists():
        raise Refused("The uploaded file is not there any more. Upload it again.")
    make(upload, worker)
    upload.path.unlink(missing_ok=True)


def refuse_upload(upload: Upload, words: str) -> bool:
    words = words.replace(str(upload.pk), upload.filename)  # the name its person knows
    refused = jobs.finish(upload, status=Upload.Status.REFUSED, phase="", error=words)
    if refused:
        upload.path.unlink(missing_ok=True)
    return refused


def make_teacher(upload: Upload, worker: str) -> None:
    asked = upload.request
    architecture = Architecture.objects.filter(pk=asked["architecture"]).first()
    dataset = Dataset.objects.filter(pk=asked["dataset"], project=upload.project).first()
    if architecture is None or dataset is None or dataset.status != Readiness.READY:
        raise Refused("The architecture or the dataset it was meant for is not there any more.")
    draft = Path(settings.KDWEB_DATA) / "teachers" / f"upload-{upload.pk}.safetensors"
    spec = ImportSpec(
        checkpoint=str(upload.path.absolute()),
        filename=upload.filename,
        architecture=architecture.pk,
        dataset=str(dataset.folder.absolute()),
        output=str(draft.absolute()),
        device="auto",
    )
    try:
        result = ask(upload, worker, "import-checkpoint", spec, strange=True)
        teacher = Teacher(
            project=upload.project,
            name=asked["name"],
            description=asked.get("description", ""),
            architecture=architecture,
            dataset=dataset,
            source=Teacher.Source.UPLOADED,
            status=Readiness.READY,
            sha256=result["sha256"],
            metrics=result["metrics"],
            notes={"file": upload.filename, "stripped": result["stripped"], "cast": result["cast"]},
            owner=upload.owner,
        )
        insist(lambda: store(upload, teacher, draft))
    finally:
        draft.unlink(missing_ok=True)


def make_dataset(upload: Upload, worker: str) -> None:
    asked = upload.request
    draft = Path(settings.KDWEB_DATA) / "datasets" / f"upload-{upload.pk}"
    shutil.rmtree(draft, ignore_errors=True)
    spec = PrepareSpec(
        kind=asked["kind"],
        options=asked.get("options", {}),
        source=str(upload.path.absolute()),
        output=str(draft.absolute()),
    )
    try:
        described = described_by(ask(upload, worker, "prepare", spec, strange=True))
        dataset = Dataset(
            project=upload.project,
            name=asked["name"],
            description=asked.get("description", ""),
            kind=asked["kind"],
            options=asked.get("options", {}),
            owner=upload.owner,
            **described,
        )
        insist(lambda: store(upload, dataset, draft))
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def store(upload: Upload, made: Teacher | Dataset, draft: Path) -> bool:
    """The row, its file and the upload's end, all or nothing."""
    kind = "teacher" if isinstance(made, Teacher) else "dataset"
    made.pk = None
    try:
        with transaction.atomic():
            made.save(force_insert=True)
            if isinstance(made, Teacher):
                made.weights = f"teachers/{made.pk}.safetensors"
                made.save(update_fields=["weights"])
            values: dict[str, Any] = {kind: made, "status": Upload.Status.DONE}
            if not jobs.finish(upload, phase="", error="", **values):
                raise Fenced("the upload is another's")
            draft.rename(made.weights_path if isinstance(made, Teacher) else made.folder)
    except IntegrityError as error:
        raise Refused(
            f"There is a {kind} called “{made.name}” already. Upload it again under another name."
        ) from error
    return True


# --- Profiles ---------------------------------------------------------------------------------------------
def profile(job: ArchitectureProfile, worker: str) -> None:
    spec = ProfileSpec(
        architecture=job.architecture_id,
        num_classes=job.num_classes,
        in_channels=job.in_channels,
        image_size=job.image_size,
    )
    result = ask(job, worker, "profile", spec)
    kept = {name: result[name] for name in ("parameters", "flops", "bytes", "layers", "stages")}
    insist(lambda: jobs.finish(job, status=ArchitectureProfile.Status.READY, error="", **kept))


def refuse_profile(job: ArchitectureProfile, words: str) -> bool:
    return jobs.finish(job, status=ArchitectureProfile.Status.FAILED, error=words)
