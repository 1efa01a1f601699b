"""Home, the list of runs and the page of a run."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments import run_tiles
from experiments.models import Artifact, LogLine, Membership, Project, Role, Run, RunEvent, Worker
from experiments.run_filter import filtered
from worker.distill.spec import Objective, Term

from . import make

pytestmark = pytest.mark.django_db
XSS = '<script>alert("x")</script>'
MEASURED: dict[str, Any] = {
    "top1": 0.95,
    "per_class": [0.9] * 10,
    "split": "test",
    "parameters": 78_000,
    "bytes": 312_000,
    "flops": 26_000_000,
    "latency_p50_ms": 0.5,
}
TEACHER = MEASURED | {"top1": 0.98, "parameters": 855_770, "bytes": 3_423_080, "flops": 250_000_000}


def person(name: str, project: Project | None, role: str = Role.MEMBER) -> Client:
    user = User.objects.create_user(name)
    if project:
        Membership.objects.create(project=project, user=user, role=role)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def mia() -> Client:
    """A member of the project."""
    return person("mia", make.a_project())


def a_control(**values: Any) -> Run:
    usual = {"name": "alone", "status": "succeeded", "accuracy": 0.93, "results": {"student": MEASURED}}
    return make.a_run(**(usual | values))


def a_distilled(**values: Any) -> Run:
    objective = Objective(task_weight=0.1, terms=[Term(method="kd", weight=0.9, params={"temperature": 4.0})])
    now = timezone.now()
    usual = {
        "name": "resnet8 ← big",
        "purpose": "distil",
        "status": "succeeded",
        "teacher": values.pop("teacher", None) or make.a_teacher(f"big {Run.objects.count()}"),
        "accuracy": 0.95,
        "results": {"student": MEASURED, "teacher": TEACHER, "device": "CPU"},
        "objective": objective.model_dump(),
        "method_keys": "kd",
        "parameters": 78_000,
        "started": now,
        "finished": now,
    }
    return make.a_run(**(usual | values))


def names(query: str, sort: str = "name") -> list[str]:
    return [run.name for run in filtered(Run.objects.all(), query, sort)]


def everything() -> Run:
    """A run of each status, and all that belongs to a run."""
    control = a_control()
    run = a_distilled(control=control, name=XSS)
    Artifact.objects.create(
        run=run, kind="student", path="runs/x", sha256="ab" * 32, bytes=9, step=3, fence=1
    )
    RunEvent.objects.create(run=run, text=f"Said {XSS}", status="succeeded", actor="mia")
    LogLine.objects.create(run=run, n=0, wall=1.0, level="info", text=XSS)
    for status in Run.Status.values:
        a_distilled(status=status, reason=XSS, name=f"is {status}", total_steps=10, step=5)
    a_distilled(status="running", name="lost", silent_since=timezone.now() - timezone.timedelta(minutes=9))
    Worker.objects.create(name="w1", host="here", queue="cpu")
    return run


# --- Every page, empty and full -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["home", "run_list", "run_compare", "run_new", "run_csv"])
@pytest.mark.parametrize("full", [False, True])
def test_a_page_answers_on_empty_and_on_full_data(mia: Client, name: str, full: bool) -> None:
    if full:
        everything()
    response = mia.get(reverse(name))
    assert response.status_code == 200
    assert XSS not in response.text if name != "run_csv" else True


def test_a_run_s_page_answers_in_every_status_and_escapes_what_people_wrote(mia: Client) -> None:
    everything()
    for run in Run.objects.all():
        for name in ("run_detail", "run_summary"):
            response = mia.get(reverse(name, args=[run.pk]))
            assert response.status_code == 200, run.status
            assert XSS not in response.text


def test_who_is_in_no_project_is_told_so() -> None:
    response = person("noa", None).get(reverse("home"))
    assert "You are in no project yet" in response.text


def test_a_newcomer_is_led_from_dataset_to_teacher_to_run(mia: Client) -> None:
    assert "Add a dataset" in mia.get(reverse("home")).text
    make.a_dataset()
    assert "Train a teacher" in mia.get(reverse("home")).text
    make.a_teacher()
    assert "Distil a student" in mia.get(reverse("home")).text
    a_distilled()
    assert "Distil a student" not in mia.get(reverse("home")).text


def test_home_says_what_needs_attention(mia: Client) -> None:
    a_distilled(status="failed", name="broke", reason="loss is NaN at step 7")
    a_distilled(status="queued", name="waits")
    text = mia.get(reverse("home"), headers={"HX-Request": "true"}).text
    assert "loss is NaN at step 7" in text
    assert "No worker is alive" in text
    assert "<html" not in text


# --- Whose runs ---------------------------------------------------------------------------------------------
def test_runs_of_another_project_are_not_there(mia: Client) -> None:
    other = Project.objects.create(name="Other", slug="other")
    theirs = a_distilled(project=other, name="theirs")
    file = Artifact.objects.create(
        run=theirs, kind="student", path="runs/x", sha256="", bytes=1, step=1, fence=1
    )
    for name in ("run_detail", "run_summary", "run_log"):
        assert mia.get(reverse(name, args=[theirs.pk])).status_code == 404
    assert mia.post(reverse("run_stop", args=[theirs.pk])).status_code == 404
    assert mia.get(reverse("run_artifact", args=[theirs.pk, file.pk])).status_code == 404
    for name in ("home", "run_list", "run_csv"):
        assert "theirs" not in mia.get(reverse(name)).text
    assert mia.get(reverse("run_new"), {"from": theirs.pk}).status_code == 404


def test_a_file_of_another_run_is_not_served_under_this_one(mia: Client) -> None:
    run, other = a_distilled(), a_distilled()
    file = Artifact.objects.create(
        run=other, kind="student", path="runs/x", sha256="", bytes=1, step=1, fence=1
    )
    assert mia.get(reverse("run_artifact", args=[run.pk, file.pk])).status_code == 404


def test_a_viewer_looks_and_does_not_touch() -> None:
    viewer = person("vic", make.a_project(), Role.VIEWER)
    run = a_distilled(status="queued")
    text = viewer.get(reverse("run_detail", args=[run.pk])).text
    assert reverse("run_stop", args=[run.pk]) not in text
    assert viewer.post(reverse("run_stop", args=[run.pk])).status_code == 403
    viewer.post(reverse("run_bulk", args=["stop"]), {"run": [run.pk]})
    assert viewer.get(reverse("run_new")).status_code == 403
    run.refresh_from_db()
    assert run.status == "queued"


def test_the_project_chosen_last_is_the_current_one(mia: Client) -> None:
    second = Project.objects.create(name="Zebra", slug="zebra")
    a_distilled(name="in the first")
    Membership.objects.create(project=second, user=User.objects.get(username="mia"))
    assert "in the first" in mia.get(reverse("run_list")).text
    mia.post(reverse("project_switch"), {"project": second.pk})
    assert "in the first" not in mia.get(reverse("run_list")).text


def test_a_project_one_is_not_in_cannot_be_chosen(mia: Client) -> None:
    other = Project.objects.create(name="Other", slug="other")
    for given in (other.pk, "x", ""):
        assert mia.post(reverse("project_switch"), {"project": given}).status_code == 404


# --- A run --------------------------------------------------------------------------------------------------
def test_the_tiles_compare_student_teacher_and_control(mia: Client) -> None:
    run = a_distilled(control=a_control())
    text = mia.get(reverse("run_detail", args=[run.pk])).text.replace("\xa0", " ")
    for shown in ("95.00 %", "98.00 %", "93.00 %", "+2.00", "40 %", "11.0×"):
        assert shown in text


def test_a_number_that_is_not_there_says_why(mia: Client) -> None:
    alone = a_distilled()
    assert "no control was run" in mia.get(reverse("run_detail", args=[alone.pk])).text
    early = a_distilled(control=a_control(status="running"), status="running", accuracy=0.5, results={})
    text = mia.get(reverse("run_detail", args=[early.pk])).text
    assert "best validation so far" in text
    assert "the control is running" in text
    assert "measured at the end" in text
    equal = a_distilled(control=a_control(accuracy=0.98))
    assert "the teacher is no better than the control" in mia.get(reverse("run_detail", args=[equal.pk])).text


def test_a_failed_run_says_why_first(mia: Client) -> None:
    run = a_distilled(status="failed", reason="learning_rate = 50: the loss is NaN. Use 0.05.", results={})
    text = mia.get(reverse("run_detail", args=[run.pk])).text
    assert (
        text.index("This run failed.")
        < text.index("learning_rate = 50: the loss is NaN.")
        < text.index("tiles")
    )


def test_a_waiting_run_says_what_it_waits_for(mia: Client) -> None:
    run = a_distilled(status="queued", teacher=make.a_teacher("slow", status="preparing"))
    page = reverse("run_detail", args=[run.pk])
    assert "Waits for the teacher slow" in mia.get(page).text
    other = a_distilled(status="queued")
    page = reverse("run_detail", args=[other.pk])
    assert "No worker is alive" in mia.get(page).text
    Worker.objects.create(name="w1", host="here", queue="cpu")
    assert "Waits for a free worker" in mia.get(page).text


def test_files_are_downloaded_as_attachments_from_the_data_folder_only(mia: Client) -> None:
    run = a_distilled()
    run.folder.mkdir(parents=True)
    (run.folder / "student.safetensors").write_bytes(b"weights")
    usual = {"run": run, "kind": "student", "sha256": "", "bytes": 7, "step": 1, "fence": 1}
    good = Artifact.objects.create(path=f"runs/{run.pk}/student.safetensors", **usual)
    response = mia.get(reverse("run_artifact", args=[run.pk, good.pk]))
    assert b"".join(response.streaming_content) == b"weights"  # type: ignore[attr-defined]
    assert response["X-Content-Type-Options"] == "nosniff"
    assert f'attachment; filename="run-{run.pk}-student.safetensors"' in response["Content-Disposition"]
    for path in ("../../../../etc/passwd", "/etc/passwd", "runs/none"):
        bad = Artifact.objects.create(path=path, **usual)
        assert mia.get(reverse("run_artifact", args=[run.pk, bad.pk])).status_code == 404


def test_the_page_shows_the_newest_five_hundred_lines(mia: Client) -> None:
    run = a_distilled()
    LogLine.objects.bulk_create(
        LogLine(run=run, n=n, wall=n, level="info", text=f"line-{n}.") for n in range(600)
    )
    text = mia.get(reverse("run_detail", args=[run.pk])).text
    assert "line-99." not in text
    assert text.index("line-100.") < text.index("line-599.")
    assert 'data-last="599"' in text


def test_a_clone_shows_what_was_changed(mia: Client) -> None:
    parent = a_distilled(name="before")
    run = a_distilled(parent=parent, training=parent.training | {"epochs": 77}, teacher=parent.teacher)
    text = mia.get(reverse("run_detail", args=[run.pk])).text
    section = text[text.index("Changed since its parent") :]
    assert section.index("Epochs") < section.index("77")


def test_the_summary_brings_results_and_history_along(mia: Client) -> None:
    run = a_distilled()
    RunEvent.objects.create(run=run, text="Training begins.", status="running")
    text = mia.get(reverse("run_summary", args=[run.pk])).text
    assert 'id="run-summary"' in text
    assert 'id="run-history" hx-swap-oob="true"' in text
    assert 'id="run-results" hx-swap-oob="true"' in text
    assert "Training begins." in text


# --- What is measured beside accuracy ---------------------------------------------------------------------
NEWER = {
    **MEASURED,
    "score": 0.95,
    "map": None,
    "ece": 0.021,
    "agreement": 0.97,
    "kl": 0.1234,
    "top5": 0.999,
    "bytes_fp16": 160_000,
    "bytes_int8": 90_000,
    "peak_memory": 600_000,
    "throughput": 1900.0,
}


def tiles(run: Run) -> dict[str, tuple[str, str]]:
    found = [*run_tiles.accuracy(run), *run_tiles.fidelity(run), *run_tiles.size(run)]
    return {
        tile.label: (tile.value.replace("\u00a0", " "), tile.foot.replace("\u00a0", " ")) for tile in found
    }


def test_the_tiles_say_how_like_the_teacher_and_how_calibrated_a_student_is(mia: Client) -> None:
    teacher = {**TEACHER, "score": 0.98, "ece": 0.05, "peak_memory": 6_000_000, "throughput": 190.0}
    run = a_distilled(results={"student": NEWER, "teacher": teacher})
    shown = tiles(run)
    assert shown["Agreement with teacher"] == ("97.00 %", "samples with the same top-1")
    assert shown["KL to teacher"][0] == "0.1234"
    assert shown["Calibration error"] == ("2.10 %", "teacher 5.00 %")
    assert shown["Peak memory, smaller"] == ("10.0×", "6.00 MB → 600 kB")
    assert shown["Throughput, higher"] == ("10.0×", "190/s → 1.90 k/s")
    assert shown["Size as int8"] == ("90.0 kB", "fp16 160 kB; accuracy is that of fp32")
    assert "Agreement with teacher" in mia.get(reverse("run_detail", args=[run.pk])).text
    assert "97.0" in mia.get(reverse("run_compare"), {"run": run.pk}).text
    wanted = {"columns": "agreement,ece,bytes_int8,loss"}
    row = next(csv.DictReader(io.StringIO(mia.get(reverse("run_csv"), wanted).text)))
    assert (row["agreement"], row["ece"], row["bytes_int8"], row["loss"]) == ("0.97", "0.021", "90000.0", "")


def test_results_of_an_earlier_version_have_the_tiles_they_had() -> None:
    labels = list(tiles(a_distilled()))
    assert labels[:2] == ["Student accuracy", "Teacher accuracy"]
    assert not any("memory" in label or "int8" in label or "Agreement" in label for label in labels)


def test_multi_label_runs_are_measured_and_ranked_by_map(mia: Client) -> None:
    dataset = make.a_dataset("scenes", info={"task": "multi-label"})
    many = {"top1": None, "per_class": None, "f1_micro": 0.6, "f1_macro": 0.5, "exact_match": 0.4}
    student = {**NEWER, **many, "score": 0.7, "map": 0.7, "average_precision": [0.9, None, 0.5]}
    teacher = make.a_teacher("many", dataset=dataset, metrics={**student, "score": 0.8, "map": 0.8})
    control = a_control(accuracy=0.65, dataset=dataset, results={"student": {**student, "score": 0.65}})
    results = {"student": student, "teacher": {**student, "score": 0.82, "map": 0.82}}
    run = a_distilled(
        name="many", dataset=dataset, teacher=teacher, control=control, accuracy=0.7, results=results
    )
    shown = tiles(run)
    assert shown["Student mAP"] == ("70.00 %", "mAP on the test split")
    assert shown["Teacher mAP"][0] == "82.00 %"
    assert shown["F1, macro"][0] == "50.00 %"
    assert shown["Agreement with teacher"][1] == "labels decided alike"
    assert run.gain == pytest.approx(0.05)
    assert run.score_series == "val/map"
    assert names("delta<-11") == ["many"]  # against the score measured in the run, 0.82
    assert mia.get(reverse("run_detail", args=[run.pk])).status_code == 200
    assert "80.00" in mia.get(reverse("teacher_list")).text
    assert "mAP" in mia.get(reverse("teacher_detail", args=[teacher.pk])).text


def test_a_teacher_of_other_data_is_no_measure_of_the_student() -> None:
    elsewhere = make.a_dataset("elsewhere")
    teacher = make.a_teacher("abroad", dataset=elsewhere, metrics={"score": 0.99})
    run = a_distilled(teacher=teacher, results={"student": MEASURED, "teacher": {"parameters": 9}})
    assert run.teacher_accuracy is None
    assert run.delta_teacher is None
    assert names("delta<0") == []
    assert tiles(run)["Teacher accuracy"] == ("–", "abroad, of other classes")
