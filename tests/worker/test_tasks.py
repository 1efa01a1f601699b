"""The whole path: a real broker, a real worker, the real engine, on scikit-learn's digits."""

from __future__ import annotations

import io
import signal
import zipfile
from typing import Any

import psutil
import pytest
import redis
from PIL import Image

from experiments import lifecycle, metric_store, queue, stream
from experiments.models import (
    Architecture,
    ArchitectureProfile,
    Dataset,
    DatasetKind,
    Method,
    Run,
    Teacher,
    Upload,
    Worker,
)
from experiments.models.catalogue import Readiness
from tests.experiments.make import a_dataset, a_project, a_teacher, an_architecture
from worker.distill.spec import Training, hinton

from .conftest import Site

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.fixture(scope="package")
def digits(site: Site) -> Dataset:
    dataset = a_dataset(
        "digits", status=Readiness.PREPARING, classes=[], channels=None, height=None, width=None
    )
    queue.send_dataset(dataset)
    site.wait_for(lambda: Dataset.objects.filter(pk=dataset.pk).exclude(status=Readiness.PREPARING).exists())
    return Dataset.objects.get(pk=dataset.pk)


def start(dataset: Dataset, name: str, training: dict[str, Any] | None = None, **values: Any) -> Run:
    budget = {"epochs": 2, "batch_size": 128, "learning_rate": 0.05, "augment": False} | (training or {})
    defaults = {"purpose": Run.Purpose.CONTROL, "architecture": an_architecture(), "objective": {}}
    run = Run.objects.create(
        project=dataset.project,
        dataset=dataset,
        name=name,
        training=Training(**budget).model_dump(),
        **(defaults | values),
    )
    assert lifecycle.submit(run, "ada")
    return run


@pytest.fixture(scope="package")
def teacher_run(site: Site, digits: Dataset) -> Run:
    made = a_teacher(dataset=digits, status=Readiness.PREPARING)
    return site.ended(start(digits, "teacher", purpose=Run.Purpose.TEACHER, makes=made))


def running(site: Site, run: Run) -> None:
    site.wait_for(lambda: Run.objects.filter(pk=run.pk, status="running", step__gt=0).exists())


def test_a_worker_says_what_it_can_do(site: Site):
    worker = Worker.objects.get(name="cpu0@test")
    assert worker.alive
    assert (worker.queue, worker.device_kind) == ("control,cpu", "cpu")
    assert "torch" in worker.versions
    assert Method.objects.filter(key="kd", available=True).exists()
    assert Architecture.objects.filter(key="resnet8").exists()
    assert DatasetKind.objects.filter(key="digits").exists()


def test_a_dataset_is_prepared(digits: Dataset):
    assert (digits.status, digits.error) == ("ready", "")
    assert (digits.channels, digits.height, digits.width, digits.num_classes) == (1, 8, 8, 10)
    assert digits.info["sizes"]["train"] > 1000
    assert len(digits.fingerprint) == 64


def test_a_dataset_that_cannot_be_prepared_says_why(site: Site):
    dataset = a_dataset("nonsense", kind="no-such-kind", status=Readiness.PREPARING)
    queue.send_dataset(dataset)
    site.wait_for(lambda: Dataset.objects.filter(pk=dataset.pk, status=Readiness.FAILED).exists())
    assert "no-such-kind" in Dataset.objects.get(pk=dataset.pk).error


def test_a_run_trains_to_success(site: Site, teacher_run: Run):
    run = teacher_run
    assert (run.status, run.reason) == ("succeeded", ""), site.tail()
    assert run.accuracy == run.results["student"]["top1"]
    assert run.parameters > 1000
    assert run.latency_ms > 0
    assert run.fence == 1
    loss = run.series.get(name="loss/total")
    assert loss.count == run.total_steps == metric_store.read(loss).step[-1]
    assert run.metrics["loss/total"]["step"] == run.total_steps
    assert [event.status for event in run.events.all()] == ["queued", "preparing", "running", "succeeded"]
    assert run.log.exists()


def test_the_teacher_it_makes_is_ready(teacher_run: Run):
    made = Teacher.objects.get(made_by=teacher_run)
    assert made.status == "ready"
    assert made.weights_path.exists()
    assert made.metrics["top1"] == teacher_run.accuracy


def test_every_frame_is_behind_the_cursor_when_it_has_ended(site: Site, teacher_run: Run):
    client = redis.Redis.from_url(site.redis_url, decode_responses=True)
    entries = client.xrange(stream.key(teacher_run.pk))
    with_points = [entry_id for entry_id, fields in entries if '"points"' in fields["f"]]
    assert with_points
    assert stream.position(with_points[-1]) <= stream.position(teacher_run.live_cursor)


def test_a_student_learns_from_it(site: Site, digits: Dataset, teacher_run: Run):
    made = Teacher.objects.get(made_by=teacher_run)
    objective = hinton().model_dump()
    run = site.ended(start(digits, "student", purpose=Run.Purpose.DISTIL, teacher=made, objective=objective))
    assert run.status == "succeeded", run.reason
    assert {"loss/ce", "loss/kd"} <= set(run.metrics)
    assert run.results["teacher"]["top1"] == pytest.approx(teacher_run.accuracy)


def test_a_running_run_can_be_stopped(site: Site, digits: Dataset):
    run = start(digits, "long", {"epochs": 5000})
    running(site, run)
    assert lifecycle.request_stop(run, "ada")
    run = site.ended(run)
    assert (run.status, run.reason) == ("cancelled", "Stopped by request.")
    site.wait_for(lambda: Worker.objects.get(name="cpu0@test").run is None)  # a moment later


def test_a_diverging_run_fails_with_the_reason_and_the_worker_goes_on(site: Site, digits: Dataset):
    run = site.ended(start(digits, "diverges", {"learning_rate": 100.0, "epochs": 50, "momentum": 0.99}))
    assert run.status == "failed"
    assert "learning rate" in run.reason.lower()
    assert site.ended(start(digits, "after it", {"epochs": 1})).status == "succeeded"


def test_a_killed_engine_is_tried_again_and_the_history_says_why(site: Site, digits: Dataset):
    run = start(digits, "killed", {"epochs": 40})
    running(site, run)
    for engine in site.engines():
        engine.send_signal(signal.SIGKILL)
    run = site.ended(run)
    assert run.status == "succeeded", run.reason
    assert [attempt.outcome for attempt in run.attempts.all()] == ["crashed", "succeeded"]
    assert run.events.filter(text__contains="out of memory").exists()


def test_a_spec_the_engine_refuses_fails_with_field_value_and_fix(site: Site, digits: Dataset):
    run = site.ended(start(digits, "too small", architecture=an_architecture("torchvision/inception_v3")))
    assert run.status == "failed"
    assert "inception_v3" in run.reason


def test_a_worker_that_shuts_down_hands_the_run_to_the_next(site: Site, digits: Dataset):
    run = start(digits, "handed over", {"epochs": 40})
    running(site, run)
    site.stop()
    handed = Run.objects.get(pk=run.pk)
    assert (handed.status, handed.lease_owner) == ("queued", "")
    assert handed.artifacts.filter(kind="resume").exists()
    site.start()
    run = site.ended(run)
    assert run.status == "succeeded", run.reason
    assert run.fence == 2
    assert run.log.filter(text__startswith="Resumed at step").exists()
    steps = metric_store.read(run.series.get(name="loss/total"), width=10**6).step
    assert steps.tolist() == list(range(1, run.total_steps + 1))


# --- Uploads and profiles ---------------------------------------------------------------------------------
def upload(
    site: Site, content: bytes, purpose: str, request: dict[str, Any], name: str = "file.pt"
) -> Upload:
    sent = Upload.objects.create(
        project=a_project(),
        purpose=purpose,
        filename=name,
        size=len(content),
        received=len(content),
        status=Upload.Status.CHECKING,
        request=request,
    )
    sent.path.parent.mkdir(exist_ok=True)
    sent.path.write_bytes(content)
    queue.send_upload(sent)
    site.wait_for(lambda: Upload.objects.exclude(status=Upload.Status.CHECKING).filter(pk=sent.pk).exists())
    assert not sent.path.exists()
    return Upload.objects.get(pk=sent.pk)


def test_an_uploaded_checkpoint_becomes_a_teacher(site: Site, digits: Dataset, teacher_run: Run):
    weights = teacher_run.artifacts.get(kind="student").full_path.read_bytes()
    request = {"name": "uploaded", "description": "", "architecture": "resnet8", "dataset": digits.pk}
    sent = upload(site, weights, "teacher", request, "teacher.safetensors")
    assert (sent.status, sent.error) == ("done", "")
    assert sent.teacher.weights_path.exists()
    assert sent.teacher.metrics["top1"] == pytest.approx(teacher_run.accuracy)
    again = upload(site, weights, "teacher", request, "teacher.safetensors")
    assert again.status == "refused"
    assert "another name" in again.error
    assert Teacher.objects.filter(name="uploaded").count() == 1
    assert not list((site.home / "teachers").glob("upload-*"))


def test_what_is_no_checkpoint_is_refused_and_nothing_is_kept(site: Site, digits: Dataset):
    request = {"name": "junk", "description": "", "architecture": "resnet8", "dataset": digits.pk}
    sent = upload(site, b"this is no checkpoint" * 100, "teacher", request)
    assert sent.status == "refused"
    assert sent.error
    assert not Teacher.objects.filter(name="junk").exists()


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for label, shade in (("dark", 40), ("light", 200)):
            for number in range(12):
                image = io.BytesIO()
                Image.new("RGB", (32, 32), (shade + number,) * 3).save(image, "PNG")
                archive.writestr(f"{label}/{number}.png", image.getvalue())
    return target.getvalue()


def test_an_uploaded_archive_becomes_a_dataset(site: Site):
    request = {"name": "shades", "description": "", "kind": "image_folder", "options": {}}
    sent = upload(site, zipped(), "dataset", request, "shades.zip")
    assert (sent.status, sent.error) == ("done", "")
    assert sent.dataset.classes == ["dark", "light"]
    assert (sent.dataset.folder / "meta.json").exists()
    sample = sent.dataset.info["samples"]["dark"][0]
    assert (sent.dataset.folder / sample).exists()


def test_an_empty_archive_is_refused(site: Site):
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    request = {"name": "nothing", "description": "", "kind": "image_folder", "options": {}}
    sent = upload(site, empty.getvalue(), "dataset", request, "nothing.zip")
    assert sent.status == "refused"
    assert not Dataset.objects.filter(name="nothing").exists()
    assert not list((site.home / "datasets").glob("upload-*"))


def test_an_architecture_is_profiled_and_a_bad_one_says_why(site: Site):
    def profiled(size: int) -> ArchitectureProfile:
        asked = ArchitectureProfile.objects.create(
            architecture=an_architecture(), num_classes=10, in_channels=1, image_size=size
        )
        queue.send_profile(asked)
        done = ArchitectureProfile.objects.filter(pk=asked.pk).exclude(status="waiting")
        return site.wait_for(done.first)

    good, bad = profiled(8), profiled(2)
    assert (good.status, bad.status) == ("ready", "failed")
    assert good.parameters > 1000
    assert good.layers[0]["shape"]
    assert "image" in bad.error


def test_a_killed_worker_leaves_no_process_and_its_run_goes_on_elsewhere(site: Site, digits: Dataset):
    run = start(digits, "orphan", {"epochs": 40})
    running(site, run)
    engines = site.engines()
    assert engines
    site.stop(signal.SIGKILL)
    for engine in engines:
        engine.wait(timeout=20)
    left = [" ".join(process.cmdline()) for process in psutil.process_iter() if of_site(process, site)]
    assert not left
    assert Run.objects.get(pk=run.pk).status == "running"
    site.start()  # under its old name, so that it need not wait for the lease to run out
    run = site.ended(run)
    assert (run.status, run.fence) == ("succeeded", 2), run.reason
    assert [attempt.outcome for attempt in run.attempts.all()] == ["lost", "succeeded"]
    every_step = list(range(1, run.total_steps + 1))
    assert metric_store.read(run.series.get(name="loss/total"), width=10**6).step.tolist() == every_step


def of_site(process: psutil.Process, site: Site) -> bool:
    try:
        return process.environ().get("KDWEB_HOME") == str(site.home)
    except psutil.Error:
        return False
