"""The API as a browser and a script use it: others' rows are 404, numbers exact, refusals say why."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import numpy as np
import pytest
import redis
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import AsyncClient, Client

from experiments import metric_store, stream
from experiments.metric_store import Points
from experiments.models import LogLine, Membership, Project, Run, Star

from . import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def run() -> Run:
    made = make.a_running_run(name="kd", total_steps=1000)
    steps = list(range(1, 1001))
    values = [1 / step for step in steps]
    values[612], values[699] = 38.0, math.nan
    block = metric_store.points(steps, values, [1.7e9 + step for step in steps])
    metric_store.append(made.pk, 1, {"loss/total": block})
    Run.objects.filter(pk=made.pk).update(live_cursor="1700000000000-7")
    return Run.objects.get(pk=made.pk)


def person(name: str, role: str = "", project: Project | None = None) -> Client:
    user = User.objects.create_user(name, password="x")
    if role:
        Membership.objects.create(user=user, project=project or make.a_project(), role=role)
    client = Client(enforce_csrf_checks=False)
    client.force_login(user)
    return client


@pytest.fixture
def ana() -> Client:
    return person("ana", "member")


def get(client: Client, path: str) -> Any:
    response = client.get(f"/api/{path}")
    assert response.status_code == 200, response.content
    return response.json()


ADDRESSES = [
    "runs/{0}", "runs/{0}/state", "runs/{0}/log", "runs/{0}/charts", "runs/{0}/series", "runs/{0}/series.csv",
    "runs/{0}/series.parquet", "compare/series.parquet?runs={0}",
    "compare/series?runs={0}&name=lr", "compare/charts?runs={0}", "compare/series.csv?runs={0}",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_strangers_get_401_and_other_projects_404(run: Run, address: str) -> None:
    path = f"/api/{address.format(run.pk)}"
    assert Client().get(path).status_code == 401
    other = Project.objects.create(name="Other", slug="other")
    assert person("eve", "maintainer", other).get(path).status_code == 404
    assert person("ana", "viewer").get(path).status_code == 200


def test_a_project_that_is_not_mine_is_404(run: Run) -> None:
    other = Project.objects.create(name="Other", slug="other")
    eve = person("eve", "member", other)
    assert eve.get(f"/api/runs?project={run.project_id}").status_code == 404
    assert eve.get(f"/api/pareto?project={run.project_id}").status_code == 404
    assert get(eve, "runs")["count"] == 0


def test_accuracies_on_different_data_are_drawn_apart(ana: Client) -> None:
    for name in ("Digits", "Letters"):
        done = make.a_run(name=name, dataset=make.a_dataset(name=name))
        Run.objects.filter(pk=done.pk).update(status="succeeded", accuracy=0.9, parameters=1000)
    everything = get(ana, "pareto")["charts"][0]["figure"]
    assert len(everything["data"][0]["x"]) == 2
    figure = get(ana, f"pareto?dataset={done.dataset_id}")["charts"][0]["figure"]
    assert len(figure["data"][0]["x"]) == 1
    assert figure["layout"]["yaxis"]["title"]["text"] == "top-1 accuracy on Letters"


def test_a_list_is_filtered_sorted_and_paged(ana: Client, run: Run) -> None:
    for number in range(5):
        make.a_run(name=f"draft {number}", status="draft")
    page = get(ana, "runs?q=status:draft&sort=name&limit=2&offset=1")
    assert (page["count"], [item["name"] for item in page["items"]]) == (5, ["draft 1", "draft 2"])
    refused = ana.get("/api/runs?q=nonsense:1")
    assert refused.status_code == 400
    assert "nonsense" in refused.json()["detail"]
    refused = ana.get("/api/runs?limit=9999")
    assert refused.status_code == 422
    assert refused.json()[0]["field"].endswith("limit")


def test_a_list_knows_who_asks(ana: Client, run: Run) -> None:
    """What is a person's own, the filter of the API finds as that of the page does."""
    person_asking = User.objects.get(username="ana")
    own = make.a_run(name="own", status="draft", owner=person_asking)
    marked = make.a_run(name="marked", status="draft")
    Star.objects.create(run=marked, user=person_asking)
    Star.objects.create(run=run, user=User.objects.create_user("ben"))
    assert [item["id"] for item in get(ana, "runs?q=is:mine")["items"]] == [own.pk]
    assert [item["id"] for item in get(ana, "runs?q=is:starred")["items"]] == [marked.pk]


def test_a_run_says_what_it_is(ana: Client, run: Run) -> None:
    found = get(ana, f"runs/{run.pk}")
    assert (found["name"], found["status"], found["dataset"]["name"]) == ("kd", "running", "digits")
    assert found["epochs"] == run.training["epochs"]
    assert get(ana, f"runs/{run.pk}/state")["step"] == 0


def test_points_are_exact_and_nan_is_null(ana: Client, run: Run) -> None:
    answer = get(ana, f"runs/{run.pk}/series?names=loss/total&first=690&last=710")
    curve = answer["series"]["loss/total"]
    assert curve["odd"] == [[700, 700, "nan"]]
    assert curve["s"] == list(range(690, 711))
    assert curve["v"] == [None if step == 700 else 1 / step for step in range(690, 711)]
    assert curve["w"] == [1.7e9 + step for step in range(690, 711)]
    assert answer["cursor"] == "1700000000000-7"


def test_a_narrow_chart_still_has_the_spike_and_tells_of_the_nan(ana: Client, run: Run) -> None:
    for width in (1, 7, 50):
        answer = get(ana, f"compare/series?runs={run.pk}&name=loss/total&width={width}")
        curve = answer["runs"][str(run.pk)]["series"]["loss/total"]
        assert len(curve["s"]) <= 2 * width + 2
        assert max(v for v in curve["v"] if v is not None) == 38.0
        assert curve["odd"] == [[700, 700, "nan"]]


def test_an_envelope_is_as_fine_as_its_chart_can_show(ana: Client, run: Run) -> None:
    steps = np.arange(1, 20_001)
    values = 1e6 + np.random.default_rng(0).uniform(0, 1e-3, len(steps))  # a plateau far from zero
    block = Points(steps, values, 1.7e9 + steps * 0.5)
    metric_store.append(run.pk, 1, {"val/loss": block})
    curve = get(ana, f"runs/{run.pk}/series?names=val/loss&width=200")["series"]["val/loss"]
    at = np.array(curve["s"]) - 1
    assert np.abs(values[at] - curve["v"]).max() < 1e-3 / 1_000
    assert np.abs(block.wall[at] - curve["w"]).max() <= 10_000 / 10_000


def test_curves_travel_compressed_to_whoever_takes_them_so(ana: Client, run: Run) -> None:
    path = f"/api/runs/{run.pk}/series"
    plain, small = ana.get(path), ana.get(path, headers={"Accept-Encoding": "br, gzip"})
    assert small["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain
    assert len(small.content) < len(plain.content) / 2
    assert gzip.decompress(small.content) == plain.content


def test_the_cursor_is_older_than_the_points(ana: Client, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points and cursor that a worker writes while a request reads: the points may be newer, never older."""
    views = metric_store.views

    def slow(*args: Any) -> list[metric_store.View]:
        block = metric_store.points([1001], [0.5], [1.7e9])
        metric_store.append(run.pk, 1, {"loss/total": block})
        Run.objects.filter(pk=run.pk).update(live_cursor="1800000000000-0")
        return views(*args)

    monkeypatch.setattr(metric_store, "views", slow)
    assert get(ana, f"runs/{run.pk}/series")["cursor"] == "1700000000000-7"


def test_charts_name_series_that_were_only_seen_live(ana: Client, run: Run) -> None:
    answer = get(ana, f"runs/{run.pk}/charts?names={run.pk}:lr,{run.pk}:gpu/x,{run.pk}:val/top1")
    drawn = {card["key"] for card in answer["charts"] if card["figure"]}
    assert drawn == {"objective", "learning-rate", "accuracy", "series:gpu/x"}
    assert answer["runs"][0]["cursor"] == "1700000000000-7"
    assert answer["runs"][0]["epoch_steps"] == 1000 / run.training["epochs"]


def test_bad_questions_are_answered_in_words(ana: Client, run: Run) -> None:
    for path, word in [
        ("compare/series?runs=1,x&name=lr", "runs"),
        ("compare/charts?runs=", "runs"),
        (f"compare/pictures/pareto?runs={run.pk}&x=price", "price"),
    ]:
        response = ana.get(f"/api/{path}")
        assert response.status_code == 400
        assert word in response.json()["detail"]


def test_the_console_goes_on_after_a_number(ana: Client, run: Run) -> None:
    LogLine.objects.bulk_create(
        LogLine(run=run, n=n, wall=n, level="info", text=f"line {n}") for n in range(1, 8)
    )
    answer = get(ana, f"runs/{run.pk}/log?after=4&limit=2")
    assert ([line["n"] for line in answer["lines"]], answer["more"]) == ([5, 6], True)


def test_a_member_stops_a_run_and_a_viewer_may_not(ana: Client, run: Run) -> None:
    waiting = make.a_run(status="queued")
    refused = person("vic", "viewer").post(f"/api/runs/{waiting.pk}/stop")
    assert refused.status_code == 403
    assert ana.post(f"/api/runs/{waiting.pk}/stop").json()["status"] == "cancelled"
    assert ana.post(f"/api/runs/{waiting.pk}/stop").status_code == 200  # twice is once
    assert ana.post(f"/api/runs/{run.pk}/stop").json()["asked"] == "stop"


def test_changes_need_the_csrf_token(run: Run) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root", password="x"))
    assert client.post(f"/api/runs/{run.pk}/stop").status_code == 403
    run.refresh_from_db()
    assert run.asked == ""


def send(client: Client, plan: dict[str, Any]) -> Any:
    return client.post("/api/runs", json.dumps(plan), content_type="application/json")


def test_a_plan_starts_runs(ana: Client) -> None:
    plan = {
        "project": make.a_project().pk,
        "purpose": "control",
        "dataset": make.a_dataset().pk,
        "architecture": make.an_architecture().key,
        "seeds": 2,
    }
    answer = send(ana, plan)
    assert answer.status_code == 201, answer.content
    assert [run["status"] for run in answer.json()] == ["queued", "queued"]
    assert Run.objects.count() == 2


def test_a_bad_plan_is_refused_by_field_value_and_fix(ana: Client) -> None:
    plan = {"project": make.a_project().pk, "dataset": make.a_dataset().pk, "training": {"epochs": 0}}
    answer = send(ana, plan)
    assert answer.status_code == 422
    problem = answer.json()[0]
    assert problem["field"] == "training.epochs"
    assert problem["value"] == 0
    assert problem["fix"]
    answer = send(ana, plan | {"training": {"epochs": 1}})
    assert answer.status_code == 422
    assert {"field", "value", "message", "fix"} == set(answer.json()[0])
    assert Run.objects.count() == 0


def test_the_schema_is_for_those_who_logged_in(ana: Client) -> None:
    assert Client().get("/api/openapi.json").status_code == 302
    assert "/api/runs/{run_id}/series" in get(ana, "openapi.json")["paths"]
    assert ana.get("/api/docs").status_code == 404


# --- The live address -------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)  # the view gives the connection back, which ends a transaction
def test_live_frames_of_others_are_404_and_ended_runs_say_so(ana: Client, run: Run) -> None:
    other = Project.objects.create(name="Other", slug="other")
    eve = person("eve", "member", other)
    assert eve.get(f"/runs/{run.pk}/live").status_code == 404
    assert eve.get(f"/runs/live?runs={run.pk}").status_code == 404
    assert Client().get(f"/runs/{run.pk}/live").status_code == 302
    done = make.a_run(status="succeeded")
    assert ana.get(f"/runs/{done.pk}/live").status_code == 204
    assert ana.get(f"/runs/{run.pk}/live?after=yesterday").status_code == 400
    assert ana.get("/runs/live?runs=").status_code == 400


@pytest.mark.server
@pytest.mark.django_db(transaction=True)
def test_events_carry_frames_and_a_cursor_for_every_run(run: Run, redis_url: str, settings: Any) -> None:
    settings.KDWEB_REDIS_URL = redis_url
    stream._writer.cache_clear()
    stream._quiet_until = 0.0
    other = make.a_running_run(name="other")
    with redis.Redis.from_url(redis_url) as server:  # other tests' runs have had these numbers, too
        server.delete(stream.key(run.pk), stream.key(other.pk))
    user = User.objects.create_superuser("root", password="x")
    first = stream.publish(run.pk, {"phase": "one"})
    second = stream.publish(other.pk, {"phase": "two"})

    async def read(count: int, **headers: str) -> str:
        client = AsyncClient()
        await client.aforce_login(user)
        response = await client.get(f"/runs/live?runs={run.pk},{other.pk}", headers=headers)
        assert response["Content-Type"] == "text/event-stream"
        assert response["X-Accel-Buffering"] == "no"
        assert response["Cache-Control"] == "no-cache"
        text = ""
        async for part in response.streaming_content:
            text += part.decode()
            if text.count("data:") >= count:
                break
        await stream.hub().close()
        return text

    text = async_to_sync(read)(2)
    assert f'data: {{"run":{run.pk},"frame":{{"phase":"one"}}}}' in text
    assert f"id: {run.pk}:{first},{other.pk}:{second}" in text
    third = stream.publish(other.pk, {"phase": "three"})
    text = async_to_sync(read)(1, **{"Last-Event-ID": f"{run.pk}:{first},{other.pk}:{second}"})
    assert text.count("data:") == 1
    assert f"id: {run.pk}:{first},{other.pk}:{third}" in text
    stream._writer.cache_clear()
