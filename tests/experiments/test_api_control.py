"""What scripts do to runs and workers: asking twice is asking once, refusals are 409 with the sentence."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from experiments.models import Artifact, Attempt, Project, Role, Run, RunEvent, Worker

from . import make
from .people import a_user, an_admin, browser

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sent")]


@pytest.fixture
def ann() -> Client:
    return browser(a_user("ann"))


def send(client: Client, path: str, body: Any = None, method: str = "post") -> tuple[int, Any]:
    act = getattr(client, method)
    kind = {"content_type": "application/json"}
    response = act(f"/api/{path}", **kind) if body is None else act(f"/api/{path}", body, **kind)
    return response.status_code, response.json() if response.content else None


def test_a_run_is_paused_resumed_stopped_and_tried_again(ann: Client) -> None:
    run = make.a_run(name="long", status="queued")
    for action, expected in [
        ("pause", "paused"), ("pause", "paused"), ("resume", "queued"), ("resume", "queued"),
        ("stop", "cancelled"), ("stop", "cancelled"), ("retry", "queued"), ("retry", "queued"),
    ]:  # fmt: skip
        code, state = send(ann, f"runs/{run.pk}/{action}")
        assert (code, state["status"]) == (200, expected)
    assert run.events.count() == 4


def test_a_running_run_is_asked(ann: Client) -> None:
    run = make.a_running_run()
    assert send(ann, f"runs/{run.pk}/pause")[1]["asked"] == "pause"
    assert send(ann, f"runs/{run.pk}/stop")[1]["asked"] == "stop"
    code, said = send(ann, f"runs/{run.pk}/pause")
    assert (code, said["detail"]) == (409, "a run is stopping; it can be tried again once it has.")


def test_from_the_start_is_asked_for_by_name(ann: Client) -> None:
    run = make.a_run(status="failed")
    Artifact.objects.create(run=run, kind="resume", path="x", sha256="0", bytes=1, step=4, fence=0)
    assert send(ann, f"runs/{run.pk}/retry", {"from_start": False})[0] == 200
    assert run.artifacts.count() == 1
    Run.objects.filter(pk=run.pk).update(status="failed")
    assert send(ann, f"runs/{run.pk}/retry", {"from_start": True})[0] == 200
    assert run.artifacts.count() == 0


def test_what_cannot_be_done_is_409_with_the_reason(ann: Client) -> None:
    done, busy = make.a_run(name="done", status="succeeded"), make.a_running_run(name="busy")
    assert send(ann, f"runs/{done.pk}/pause") == (
        409, {"detail": "done has succeeded: there is nothing to pause."}
    )  # fmt: skip
    assert send(ann, f"runs/{busy.pk}", method="delete") == (
        409, {"detail": "busy is running: stop it first, then move it to the trash."}
    )  # fmt: skip
    for _ in range(2):
        assert send(ann, f"runs/{done.pk}", method="delete") == (204, None)
    assert Run.objects.get(pk=done.pk).shelf == "trash"
    assert send(ann, f"runs/{done.pk}?for_good=true", method="delete") == (204, None)
    assert send(ann, f"runs/{done.pk}?for_good=true", method="delete")[0] == 404


def test_a_bad_priority_is_refused_by_field_value_and_fix(ann: Client) -> None:
    run = make.a_run(status="queued")
    code, (problem,) = send(ann, f"runs/{run.pk}/priority", {"priority": 7})
    assert code == 422
    assert problem["field"].endswith("priority")
    assert problem["value"] == 7
    assert problem["fix"] == "Choose -1, 0 or 1."
    assert send(ann, f"runs/{run.pk}/priority", {"priority": 1})[1]["priority"] == 1
    assert send(ann, f"runs/{make.a_running_run().pk}/priority", {"priority": 1})[0] == 409


def test_the_history_and_the_attempts_are_told_in_order(ann: Client) -> None:
    run = make.a_running_run()
    RunEvent.objects.create(run=run, text="Submitted.", actor="ann", status="queued")
    RunEvent.objects.create(run=run, text="Attempt 1 begins.", actor="w1", status="preparing")
    Attempt.objects.create(run=run, number=1, worker="w1", device="CPU", from_step=3)
    events, attempts = (ann.get(f"/api/runs/{run.pk}/{what}").json() for what in ("events", "attempts"))
    assert [(one["text"], one["actor"]) for one in events] == [
        ("Submitted.", "ann"), ("Attempt 1 begins.", "w1"),
    ]  # fmt: skip
    assert (attempts[0]["worker"], attempts[0]["from_step"], attempts[0]["ended"]) == ("w1", 3, None)


def test_the_second_writer_of_notes_gets_the_first_one_s(ann: Client) -> None:
    run = make.a_run()
    path = f"runs/{run.pk}/notes"
    code, said = send(ann, path, {"text": "one", "version": 0}, "put")
    assert (code, said["text"], said["version"], said["by"]) == (200, "one", 1, "ann")
    code, said = send(ann, path, {"text": "two", "version": 0}, "put")
    assert (code, said["text"], said["version"]) == (409, "one", 1)
    assert send(ann, path, {"text": "x" * 20_001, "version": 1}, "put")[0] == 422
    said = ann.get(f"/api/{path}").json()
    assert (said["text"], said["version"], said["saved"] is not None) == ("one", 1, True)


def test_viewers_change_nothing_and_strangers_see_nothing() -> None:
    run = make.a_run(status="queued")
    vic = browser(a_user("vic", Role.VIEWER))
    eve = browser(a_user("eve", Role.MAINTAINER, Project.objects.create(name="Other", slug="other")))
    bodies = {"priority": {"priority": 1}, "notes": {"text": "", "version": 0}}
    for action in ("pause", "resume", "stop", "retry", "priority", "notes", ""):
        path = f"runs/{run.pk}/{action}".rstrip("/")
        method = {"notes": "put", "": "delete"}.get(action, "post")
        assert send(vic, path, bodies.get(action), method)[0] == 403
        assert send(eve, path, bodies.get(action), method)[0] == 404
        assert send(Client(), path, bodies.get(action), method)[0] == 401
    for what in ("events", "attempts", "notes"):
        assert vic.get(f"/api/runs/{run.pk}/{what}").status_code == 200
        assert eve.get(f"/api/runs/{run.pk}/{what}").status_code == 404
    assert Run.objects.get(pk=run.pk).status == "queued"


def test_workers_are_listed_and_drained_by_those_who_may(ann: Client) -> None:
    theirs = make.a_run(project=Project.objects.create(name="Other", slug="other"), status="running")
    Worker.objects.create(name="gpu0@here", host="here", queue="cpu,gpu", run=theirs)
    (row,) = ann.get("/api/workers").json()
    assert (row["name"], row["alive"], row["busy"], row["run"]) == ("gpu0@here", True, True, None)
    assert row["queues"] == ["cpu", "gpu"]
    path = "workers/gpu0@here/drain"
    code, said = send(ann, path, {"drain": True})
    assert (code, "maintainer" in said["detail"]) == (403, True)
    root = browser(an_admin())
    for client in (browser(a_user("max", Role.MAINTAINER)), root):
        for wanted in (True, True, False):
            assert send(client, path, {"drain": wanted})[1]["drain"] is wanted
            assert Worker.objects.get().drain is wanted
        assert send(client, path, {})[0] == 422
        assert send(client, "workers/nobody/drain", {"drain": True})[0] == 404
    assert root.get("/api/workers").json()[0]["run"] == theirs.pk


def test_a_run_is_put_away_and_taken_back(ann: Client) -> None:
    run, busy = make.a_run(name="r", status="failed"), make.a_running_run(name="busy")
    for shelf in ("archive", "archive", "", "trash", ""):
        assert send(ann, f"runs/{run.pk}/shelf", {"shelf": shelf}, "put")[1]["shelf"] == shelf
    code, said = send(ann, f"runs/{busy.pk}/shelf", {"shelf": "archive"}, "put")
    assert (code, said["detail"]) == (409, "busy has not ended: stop it first, then archive it.")
    assert send(ann, f"runs/{run.pk}/shelf", {"shelf": "attic"}, "put")[0] == 422


def test_tags_change_together_or_not_at_all_and_stars_are_ones_own(ann: Client) -> None:
    run = make.a_run()
    assert send(ann, f"runs/{run.pk}/tags", {"add": ["b", "a"]}) == (200, ["a", "b"])
    code, said = send(ann, f"runs/{run.pk}/tags", {"remove": ["a"], "add": ["no good"]})
    assert (code, "cannot be in a tag" in said["detail"]) == (400, True)
    assert send(ann, f"runs/{run.pk}", method="get")[1]["tags"] == ["a", "b"]
    assert send(ann, "tags", method="get")[1] == [{"name": "a", "count": 1}, {"name": "b", "count": 1}]
    vic = browser(a_user("vic", Role.VIEWER))
    assert send(vic, f"runs/{run.pk}/tags", {"add": ["c"]})[0] == 403
    assert send(vic, f"runs/{run.pk}/star", method="put")[0] == 204
    assert [star.user.username for star in run.stars.all()] == ["vic"]
    assert send(vic, f"runs/{run.pk}/star", method="delete")[0] == 204
    assert not run.stars.exists()
