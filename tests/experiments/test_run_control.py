"""What people do to runs, from a page, from two tabs at once, and for many together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments import lifecycle, waiting
from experiments.models import Artifact, Attempt, Project, Role, Run, RunEvent, Teacher, Worker

from . import make
from .people import a_user, browser

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sent")]


@pytest.fixture
def ann() -> Client:
    return browser(a_user("ann"))


def post(client: Client, run: Run, action: str, **data: Any) -> str:
    """The page that the person sees afterwards, as text."""
    response = client.post(reverse(f"run_{action}", args=[run.pk]), data, follow=True)
    assert response.status_code == 200
    return response.content.decode()


def page(client: Client, run: Run) -> str:
    return client.get(reverse("run_detail", args=[run.pk])).content.decode()


def fresh(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def a_checkpoint(run: Run, step: int = 40) -> Artifact:
    kind = Artifact.Kind.RESUME
    return Artifact.objects.create(
        run=run, kind=kind, path=f"runs/{run.pk}/{step}", sha256="0", bytes=1, step=step, fence=run.fence
    )


# --- One run ------------------------------------------------------------------------------------------------
def test_a_running_run_is_asked_to_pause_and_the_pause_withdrawn(ann: Client) -> None:
    run = make.a_running_run(name="long")
    assert "long will pause." in post(ann, run, "pause")
    text = page(ann, run)
    assert "Pausing: it ends its step" in text
    assert "Go on after all" in text
    assert reverse("run_pause", args=[run.pk]) not in text
    assert "long is pausing already." in post(ann, run, "pause")
    assert "long goes on." in post(ann, run, "resume")
    assert "long goes on already." in post(ann, run, "resume")
    assert fresh(run).asked == ""
    assert [event.text for event in run.events.all()] == ["Pause requested.", "The pause is withdrawn."]


def test_a_paused_run_says_who_paused_it_and_from_where_it_goes_on(ann: Client) -> None:
    run = make.a_running_run(name="long", step=47, total_steps=100)
    a_checkpoint(run)
    lifecycle.request_pause(run, "ann")
    lifecycle.stopped(run.pk, 1)
    text = page(ann, run)
    assert "Paused by request." in text
    assert "goes on from its checkpoint at step 40" in text
    assert reverse("run_resume", args=[run.pk]) in text
    assert "long goes on." in post(ann, run, "resume")
    assert fresh(run).status == "queued"


def test_a_full_disk_is_named_and_needs_nobody(ann: Client) -> None:
    run = make.a_running_run(name="big")
    lifecycle.disk_full(run.pk, 1, "checkpoint.kdck: there is no space left. Free 2 GB.")
    text = page(ann, run)
    assert "Paused: the disk is full." in text
    assert "Free 2 GB." in text
    assert "It goes on by itself when there is room" in text
    home = ann.get(reverse("home"), headers={"HX-Request": "true"}).content.decode()
    assert home.index("Needs attention") < home.index("big") < home.index("the disk is full")


def test_a_stopped_run_is_tried_again_from_its_checkpoint_or_from_the_start(ann: Client) -> None:
    run = make.a_run(name="long", status="queued")
    assert "long is cancelled." in post(ann, run, "stop")
    assert "long is stopped already." in post(ann, run, "stop")
    a_checkpoint(run)
    assert "Tried again, it goes on from its checkpoint at step 40." in page(ann, run)
    assert "long is tried again from its last checkpoint." in post(ann, run, "retry")
    assert "long waits or runs already." in post(ann, run, "retry")
    assert run.artifacts.count() == 1
    post(ann, run, "stop")
    assert "long is tried again from the start." in post(ann, run, "retry", **{"from": "start"})
    assert run.artifacts.count() == 0
    assert RunEvent.objects.filter(run=run, text__startswith="Tried again", actor="ann").count() == 2


def test_a_stopping_run_offers_nothing_more(ann: Client) -> None:
    run = make.a_running_run(name="long")
    assert "long will stop." in post(ann, run, "stop")
    text = page(ann, run)
    assert "Stopping: it ends its step" in text
    for action in ("pause", "resume", "stop", "retry", "delete"):
        assert reverse(f"run_{action}", args=[run.pk]) not in text
    for action in ("pause", "resume", "retry"):
        assert "long is stopping; it can be tried again once it has." in post(ann, run, action)
    assert "long was asked to stop before." in post(ann, run, "stop")


@pytest.mark.parametrize(
    ("status", "action", "said"),
    [
        ("succeeded", "pause", "has succeeded: there is nothing to pause."),
        ("succeeded", "stop", "has succeeded: there is nothing to stop."),
        ("succeeded", "resume", "has succeeded: clone it to train it again."),
        ("succeeded", "retry", "has succeeded: clone it to train it again."),
        ("failed", "resume", "has failed: try it again instead."),
        ("failed", "stop", "has failed: there is nothing to stop."),
        ("cancelled", "pause", "was cancelled: there is nothing to pause."),
        ("paused", "retry", "is paused: resume it."),
        ("paused", "pause", "is paused already."),
        ("draft", "pause", "is a draft: there is nothing to pause."),
        ("draft", "resume", "is a draft: submit it first."),
        ("draft", "retry", "is a draft: submit it first."),
    ],
)
def test_a_page_from_before_is_told_how_things_are_and_changes_nothing(
    ann: Client, status: str, action: str, said: str
) -> None:
    run = make.a_run(name="old", status=status)
    assert f"old {said}" in post(ann, run, action)
    assert fresh(run).status == status
    assert run.events.count() == 0


def test_pause_resume_pause_in_a_hurry_leaves_legal_steps_only(ann: Client) -> None:
    run = make.a_run(name="long", status="queued", queued=timezone.now())
    for action in ("pause", "pause", "resume", "resume", "pause", "resume"):
        post(ann, run, action)
    assert fresh(run).status == "queued"
    assert [event.status for event in run.events.all()] == ["paused", "queued", "paused", "queued"]


def test_a_change_needs_a_post(ann: Client) -> None:
    run = make.a_run(status="queued")
    for action in ("pause", "resume", "stop", "retry", "priority", "delete"):
        assert ann.get(reverse(f"run_{action}", args=[run.pk])).status_code == 405


def test_a_viewer_sees_no_buttons_and_changes_nothing() -> None:
    vic = browser(a_user("vic", Role.VIEWER))
    for status in Run.Status.values:
        run = make.a_run(status=status, fence=1)
        text = page(vic, run)
        for action in ("pause", "resume", "stop", "retry", "priority", "delete", "notes"):
            assert reverse(f"run_{action}", args=[run.pk]) not in text
            assert vic.post(reverse(f"run_{action}", args=[run.pk])).status_code == 403
        assert fresh(run).status == status


def test_what_is_done_to_a_run_of_another_project_is_done_to_nothing(ann: Client) -> None:
    other = Project.objects.create(name="Other", slug="other")
    theirs = make.a_run(project=other, status="queued")
    for action in ("pause", "resume", "stop", "retry", "priority", "notes"):
        assert ann.post(reverse(f"run_{action}", args=[theirs.pk])).status_code == 404
    assert "not there" in post(ann, theirs, "delete")
    assert "1 is not there or not yours" in bulk(ann, "trash", theirs)
    assert fresh(theirs).status == "queued"


def test_changes_need_the_csrf_token() -> None:
    run = make.a_run(status="queued")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(a_user("ann"))
    for action in ("pause", "stop", "delete", "priority", "notes"):
        assert strict.post(reverse(f"run_{action}", args=[run.pk])).status_code == 403
    assert fresh(run).status == "queued"


# --- Deleting -----------------------------------------------------------------------------------------------
def test_a_run_is_deleted_into_the_trash_and_its_page_offers_it_back(ann: Client) -> None:
    run = make.a_run(name="old", status="failed")
    assert "old is in the trash." in post(ann, run, "delete")
    text = post(ann, run, "delete")
    assert "old is in the trash already." in text
    assert "This run is in the trash." in text
    assert reverse("run_bulk", args=["restore"]) in text
    assert reverse("run_retry", args=[run.pk]) not in text
    assert fresh(run).shelf == "trash"


def test_a_page_whose_run_is_deleted_meanwhile_says_so(ann: Client) -> None:
    gone = reverse("run_summary", args=[987_654])
    assert ann.get(gone).status_code == 404
    response = ann.get(gone, headers={"HX-Request": "true"})
    assert response.status_code == 200
    assert "This run was deleted." in response.content.decode()
    assert "data-refresh" not in response.content.decode()


def test_a_run_at_work_is_not_deleted_and_says_what_to_do_first(ann: Client) -> None:
    run = make.a_running_run(name="busy")
    assert "A run that is at work cannot be put away: stop it first." in page(ann, run)
    assert "busy is running: stop it first, then move it to the trash." in post(ann, run, "delete")
    assert Run.objects.filter(pk=run.pk, status="running").exists()


def test_a_run_whose_weights_a_teacher_has_stays(ann: Client) -> None:
    run = make.a_run(name="maker", purpose="teacher", status="succeeded")
    made = make.a_teacher("big")
    Run.objects.filter(pk=run.pk).update(makes=made)
    assert "maker holds the weights of the teacher big: delete the teacher first." in post(ann, run, "delete")
    assert Teacher.objects.filter(pk=made.pk).exists()


# --- The queue ----------------------------------------------------------------------------------------------
def queued(name: str, **values: Any) -> Run:
    run = make.a_run(name=name, **values)
    lifecycle.submit(run, "ann")
    return fresh(run)


def test_a_waiting_run_says_its_place_and_moves_with_its_priority(ann: Client) -> None:
    first, second, third = (queued(name) for name in ("one", "two", "three"))
    assert "3rd in the queue." in page(ann, third)
    assert "The priority of three is high now." in post(ann, third, "priority", priority="high")
    assert "The priority of three is high already." in post(ann, third, "priority", priority="high")
    assert [waiting.place(fresh(run)) for run in (first, second, third)] == [2, 3, 1]
    post(ann, first, "priority", priority="low")
    assert waiting.order() == [third.pk, second.pk, first.pk]
    assert "Choose low, normal, high." in post(ann, third, "priority", priority="urgent")
    assert fresh(third).priority == 1


def test_a_run_that_has_begun_keeps_its_priority(ann: Client) -> None:
    run = make.a_running_run(name="busy")
    assert "busy has begun: its place in the queue matters no more." in post(
        ann, run, "priority", priority="low"
    )
    assert fresh(run).priority == 0


def test_a_run_that_waits_for_its_teacher_has_no_place(ann: Client) -> None:
    run = queued("waits", purpose="distil", teacher=make.a_teacher("slow", status="preparing"))
    assert waiting.place(run) is None
    text = page(ann, run)
    assert "Waits for the teacher slow" in text
    assert "in the queue." not in text


def test_a_run_says_when_all_workers_are_drained(ann: Client) -> None:
    Worker.objects.create(name="w1", host="here", queue="cpu", drain=True)
    assert "No worker takes runs" in page(ann, queued("waits"))


# --- What happened ------------------------------------------------------------------------------------------
def test_the_history_and_the_attempts_can_be_read(ann: Client) -> None:
    run = make.a_running_run(name="long", step=90, fence=2, lease_owner="w2@b")
    now = timezone.now()
    gone = {"outcome": "lost", "reason": "Its worker went silent.", "ended": now, "step": 60}
    Attempt.objects.create(run=run, number=1, worker="w1@a", device="CPU", **gone)
    Attempt.objects.create(run=run, number=2, worker="w2@b", device="NVIDIA H100", from_step=50)
    for text, actor in (("Submitted.", "ann"), ("Paused by ann.", "ann"), ("Attempt 2 begins.", "w2@b")):
        RunEvent.objects.create(run=run, text=text, actor=actor, status="queued")
    RunEvent.objects.create(run=run, text="There is room on the disk again.", actor="sweep", status="queued")
    text = page(ann, run)
    for said in ("by ann", "on worker w2@b", "by the sweep", "Its worker went silent.", "NVIDIA H100"):
        assert said in text
    assert text.count("by ann") == 2  # once said, once added
    assert "0 → 60" in text
    assert "50 → 90" in text
    assert "At work" in text


def test_a_result_that_is_not_exact_says_so_and_why(ann: Client) -> None:
    run = make.a_run(status="succeeded")
    assert "not exact" not in page(ann, run)
    Run.objects.filter(pk=run.pk).update(inexact="It was begun with torch 2.12 and goes on with 2.13.")
    text = page(ann, run)
    assert text.index("Resumed, not exact:") < text.index("It was begun with torch 2.12")


# --- Many at once -------------------------------------------------------------------------------------------
def bulk(client: Client, action: str, *runs: Run) -> str:
    response = client.post(reverse("run_bulk", args=[action]), {"run": [run.pk for run in runs]})
    assert response.status_code == 204
    said = json.loads(response["HX-Trigger"])
    assert said["kd:refresh"] is True
    return str(said["kd:toast"]["text"])


def test_the_chosen_are_paused_resumed_stopped_put_away_each_by_its_rule(ann: Client) -> None:
    waits, busy = make.a_run(name="waits", status="queued"), make.a_running_run(name="busy")
    done = make.a_run(name="done", status="succeeded")
    said = bulk(ann, "pause", waits, busy, done)
    assert said == "2 of 3 will pause. done has succeeded: there is nothing to pause."
    assert (fresh(waits).status, fresh(busy).asked) == ("paused", "pause")
    assert bulk(ann, "resume", waits, busy) == "2 go on."
    assert bulk(ann, "stop", waits, busy) == "2 will stop."
    assert (fresh(waits).status, fresh(busy).asked) == ("cancelled", "stop")
    said = bulk(ann, "trash", waits, busy, done)
    assert said == ("2 of 3 moved to the trash. busy is running: stop it first, then move it to the trash.")
    assert list(Run.objects.shown()) == [busy]


def test_at_most_three_reasons_are_named(ann: Client) -> None:
    runs = [make.a_run(name=f"r{n}", status="failed") for n in range(5)]
    said = bulk(ann, "resume", *runs)
    assert said.startswith("0 of 5 go on. ")
    assert said.count("try it again instead") == 3
    assert said.endswith("And 2 more.")


def test_nothing_chosen_strange_keys_and_strange_actions(ann: Client) -> None:
    address = reverse("run_bulk", args=["stop"])
    assert "No run is selected." in ann.post(address)["HX-Trigger"]
    assert "No run is selected." in ann.post(address, {"run": ["x", "-1"]})["HX-Trigger"]
    assert ann.post(reverse("run_bulk", args=["explode"])).status_code == 404


# --- Notes --------------------------------------------------------------------------------------------------
def test_notes_are_written_and_read(ann: Client) -> None:
    run = make.a_run()
    assert "No notes yet" in page(ann, run)
    assert "What is worth knowing" in ann.get(reverse("run_notes", args=[run.pk]) + "?edit").content.decode()
    assert "<b>why</b>" not in post(ann, run, "notes", text="<b>why</b>\r\nso", version="0")
    assert (fresh(run).notes, fresh(run).notes_version) == ("<b>why</b>\nso", 1)


def test_the_second_of_two_sees_both_texts_and_nothing_is_lost(ann: Client) -> None:
    run = make.a_run()
    post(ann, run, "notes", text="ann was here", version="0")
    bea = browser(a_user("bea"))
    text = post(bea, run, "notes", text="bea as well", version="0")
    assert "Somebody else has saved these notes meanwhile." in text
    assert "ann was here" in text
    assert "bea as well" in text
    assert 'name="version" value="1"' in text
    assert fresh(run).notes == "ann was here"
    post(bea, run, "notes", text="ann was here, bea as well", version="1")
    assert fresh(run).notes == "ann was here, bea as well"


def test_saving_the_same_notes_twice_is_no_conflict(ann: Client) -> None:
    run = make.a_run()
    for _ in range(2):
        assert "meanwhile" not in post(ann, run, "notes", text="same", version="0")
    assert fresh(run).notes_version == 1


def test_notes_that_are_too_long_come_back_with_the_reason(ann: Client) -> None:
    run = make.a_run()
    text = post(ann, run, "notes", text="x" * 20_001, version="0")
    assert "20,001 characters; write at most 20,000." in text
    assert "x" * 20_001 in text
    assert "meanwhile" in post(ann, run, "notes", text="x", version="nonsense")
    assert fresh(run).notes == ""
