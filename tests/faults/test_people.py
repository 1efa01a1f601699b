"""People change their minds, all at once, at the worst moment; and many want the one worker."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise

import pytest

from experiments import fair_queue, lifecycle
from experiments.models import Project, Run
from tests.experiments.make import a_teacher

from .moments import assert_tidy, freeze_at
from .person import Answer, Client
from .processes import slowly
from .site import Site
from .workers import WebProcess, WorkerProcess

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

EPOCHS = 30


@pytest.fixture(scope="module")
def web(site: Site) -> Iterator[WebProcess]:
    web = site.web().start()
    yield web
    web.close()


@pytest.fixture(scope="module")
def ann(web: WebProcess) -> Client:
    return web.client("ann")


@pytest.fixture
def worker(site: Site) -> WorkerProcess:
    found = site.processes[0]
    assert isinstance(found, WorkerProcess)
    return found


def at_once(*acts: Callable[[], Answer]) -> list[Answer]:
    """All of them, each in a thread of its own."""
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda act=act: answers.append(act())) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(acts)
    return answers


def assert_cancelled_once(site: Site, run: Run, attempts: int) -> None:
    run = site.ended(run, 90)
    assert run.status == "cancelled"
    assert run.reason
    assert run.events.filter(status="cancelled").count() == 1
    assert site.outcomes(run) == ["cancelled"] * attempts
    assert_tidy(run)


# --- Stopping ---------------------------------------------------------------------------------------------
def test_f41_cancelled_while_it_waits(site: Site, ann: Client) -> None:
    """stop a run that waits behind another, from six tabs at once → cancelled once, it never starts."""
    first = site.start_run("before it", epochs=EPOCHS)
    site.running(first)
    run = site.start_run("cancelled while queued", epochs=1)
    at_once(*[lambda: ann.post(f"/runs/{run.pk}/stop")] * 6)
    assert_cancelled_once(site, run, attempts=0)
    ann.post(f"/runs/{first.pk}/stop")
    assert_cancelled_once(site, first, attempts=1)


def test_f41_cancelled_while_it_starts(site: Site, ann: Client) -> None:
    """stop a run as soon as a worker has it, from six tabs at once → cancelled once, its engine is gone."""
    run = site.start_run("cancelled while starting", epochs=EPOCHS)
    site.status(run, *Run.ACTIVE)
    at_once(*[lambda: ann.post(f"/runs/{run.pk}/stop")] * 6)
    assert_cancelled_once(site, run, attempts=1)


def test_f41_cancelled_while_it_saves(site: Site, worker: WorkerProcess, ann: Client) -> None:
    """stop a run in the middle of writing a checkpoint → cancelled once, every file whole; tried again it
    goes on from there and ends as its twin."""
    run = site.start_run("cancelled while saving", epochs=EPOCHS)
    site.resumable(run)
    engine = worker.engine()
    freeze_at([engine], lambda: any(run.folder.rglob(".writing-resume-*")))
    ann.post(f"/runs/{run.pk}/stop")
    engine.resume()
    assert_cancelled_once(site, run, attempts=1)
    ann.post(f"/runs/{run.pk}/retry")
    site.status(run, "succeeded")
    assert run.attempts.get(number=2).from_step > 0
    site.assert_same(run)


# --- Deleting ---------------------------------------------------------------------------------------------
def test_f42_what_a_running_run_needs_cannot_be_deleted(
    site: Site, worker: WorkerProcess, ann: Client
) -> None:
    """delete the run, its dataset and its teacher while it runs → each refused with a sentence that says
    what to do; the run ends as its twin."""
    run = site.start_run("wanted", epochs=EPOCHS)
    teacher = a_teacher("needed", dataset=site.digits)
    waits = site.draft("waits for the teacher", purpose="distil", teacher=teacher)
    boss = site_admin(site, ann)
    site.running(run)
    with slowly(worker.engine()):
        for path, words in (
            (f"/runs/{run.pk}/delete", "stop it first"),
            (f"/datasets/{site.digits.pk}/delete", "run"),
            (f"/teachers/{teacher.pk}/delete", "run"),
        ):
            answer = boss.post(path)
            assert answer.status == 302, f"{path} {site.tails()}"
            said = message_of(boss.get(answer.location).text)
            assert words in said, f"{path}: {said}"
        assert Run.objects.filter(pk=run.pk, status="running").exists()
    site.ended(run)
    site.assert_same(run)
    lifecycle.delete(waits, "ann")
    teacher.delete()


def site_admin(site: Site, ann: Client) -> Client:
    return Client(ann.port).log_in(site.person("boss", "maintainer").username)


def message_of(page: str) -> str:
    """What the page says in its toasts."""
    return " ".join(re.findall(r'class="toast [^"]*">.*?<p>(.*?)</p>', page, re.S))


def test_f42_project_deleted_while_its_run_trains(site: Site, worker: WorkerProcess) -> None:
    """delete the rows of a project under a running run → the engine ends within seconds, no folder is left,
    the worker takes the next run."""
    project = Project.objects.create(name="Doomed", slug="doomed")
    run = site.start_run("doomed", epochs=EPOCHS, project=project)
    site.running(site.resumable(run))
    engine, folder = worker.engine(), run.folder
    assert folder.exists()
    project.delete()
    site.wait_for(lambda: not engine.is_running(), 30)
    site.wait_for(lambda: not folder.exists(), 30)
    following = site.ended(site.start_run("after the doomed", epochs=1))
    assert following.status == "succeeded"
    assert not folder.exists()


# --- Pausing ----------------------------------------------------------------------------------------------
def test_f44_paused_and_resumed_quickly(site: Site, ann: Client) -> None:
    """pause and resume a running run twenty times from two tabs at once → only legal changes, it ends as it
    was last asked to, and the twin's result comes out."""
    run = site.start_run("restless", epochs=EPOCHS)
    site.running(run)
    dice = random.Random(44)
    wishes = [[dice.choice(["pause", "resume"]) for _ in range(20)] for _ in range(2)]

    def ask(words: list[str]) -> Answer:
        answers = [ann.post(f"/runs/{run.pk}/{word}") for word in words]
        assert {answer.status for answer in answers} == {302}
        return answers[-1]

    at_once(*[lambda words=words: ask(words) for words in wishes])  # type: ignore[misc]
    ann.post(f"/runs/{run.pk}/pause")
    paused = site.status(run, "paused", "succeeded")
    assert paused.status == "paused", "it was too short to be paused"
    assert paused.reason
    ann.post(f"/runs/{run.pk}/resume")
    site.ended(run)
    assert_legal(run)
    assert set(site.outcomes(run)) <= {"paused", "handed back", "succeeded"}
    site.assert_same(run)


def assert_legal(run: Run) -> None:
    """Every change in its history is an edge of the diagram."""
    path = ["draft", *run.events.order_by("pk").values_list("status", flat=True)]
    for before, after in pairwise(path):
        assert before == after or before in lifecycle.SOURCES[after], f"{before} → {after} in {path}"


# --- Editing ----------------------------------------------------------------------------------------------
def test_f45_settings_of_a_running_run_cannot_be_edited(site: Site, web: WebProcess, ann: Client) -> None:
    """send other settings to every door of a running run (page, API, admin) → refused or ignored, the engine
    trains what was submitted."""
    run = site.start_run("as submitted", epochs=EPOCHS)
    site.running(run)
    submitted = dict(run.training)
    other = {"training-epochs": "1", "epochs": "1", "training": '{"epochs": 1}', "name": "changed"}
    root = web.client("root", is_superuser=True, is_staff=True)
    for method in ("PUT", "PATCH", "POST"):
        path = f"/api/runs/{run.pk}"
        assert root.send(method, path, '{"training": {"epochs": 1}}', JSON).status in (404, 405)
    assert ann.post(f"/runs/{run.pk}/", other).status in (200, 403, 405)
    assert root.post(f"/admin/experiments/run/{run.pk}/change/", other).status == 403
    run = site.ended(run)
    assert run.name == "as submitted"
    assert run.training == submitted
    assert run.epochs == EPOCHS
    site.assert_same(run)


JSON = {"Content-Type": "application/json"}


def test_f52_two_people_edit_the_same_note(site: Site, web: WebProcess, ann: Client) -> None:
    """two open the same note, both save → the second is shown both texts and saves knowingly; nothing is
    overwritten unseen, from the page or by the API."""
    run = site.draft("noted")
    bob, path = web.client("bob"), f"/runs/{run.pk}/notes"
    assert ann.get(f"{path}?edit").status == bob.get(f"{path}?edit").status == 200
    assert ann.post(path, {"text": "Ann was here", "version": "0"}).status == 302
    conflict = bob.post(path, {"text": "Bob knows better", "version": "0"})
    assert conflict.status in (200, 409)
    assert "Ann was here" in conflict.text
    assert "Bob knows better" in conflict.text
    assert "Somebody else has saved" in conflict.text
    assert Run.objects.get(pk=run.pk).notes == "Ann was here"
    assert bob.post(path, {"text": "Both", "version": "1"}).status == 302
    late = ann.send("PUT", f"/api/runs/{run.pk}/notes", '{"text": "late", "version": 1}', JSON)
    assert late.status == 409
    run.refresh_from_db()
    assert (run.notes, run.notes_version) == ("Both", 2)


# --- Sharing ----------------------------------------------------------------------------------------------
def three_projects() -> list[Project]:
    names = ("Alpha", "Beta", "Gamma")
    return [Project.objects.get_or_create(name=n, defaults={"slug": n.lower()})[0] for n in names]


def shown() -> list[int]:
    """The queue as the Workers page shows it."""
    waiting = Run.objects.filter(status="queued")
    return list(fair_queue.in_order(waiting).values_list("pk", flat=True))


def begun(runs: list[Run]) -> list[int]:
    """In the order in which workers took them."""
    keys = [run.pk for run in runs]
    return list(Run.objects.filter(pk__in=keys).order_by("started", "pk").values_list("pk", flat=True))


def test_f64_ten_runs_of_three_projects_on_one_worker(site: Site, worker: WorkerProcess, ann: Client) -> None:
    """ten runs of three projects and three priorities wait behind one → they begin in the order shown."""
    alpha, beta, gamma = three_projects()
    first = site.start_run("busy", epochs=EPOCHS)
    site.running(first)
    crowd = [(alpha, 0)] * 5 + [(beta, 0)] * 2 + [(gamma, -1), (gamma, 1), (beta, 0)]
    with slowly(worker.engine()):
        runs = [
            site.start_run(f"{project} {n}", epochs=1, project=project, priority=level)
            for n, (project, level) in enumerate(crowd)
        ]
    order = shown()
    assert order[0] == runs[8].pk  # of high priority
    assert order[-1] == runs[7].pk  # of low
    assert {Run.objects.get(pk=key).project for key in order[1:3]} == {alpha, beta}
    ann.post(f"/runs/{first.pk}/stop")
    for run in runs:
        assert site.ended(run).status == "succeeded"
    assert begun(runs) == order


def test_f64_fifty_runs_of_three_projects(fresh_site: Site) -> None:
    """fifty runs of three projects, one of them with thirty-six, claimed one after the other → in the order
    shown; the small projects are through after a fair share, and one of low priority comes after two days.
    simulated: the runs end as soon as they are claimed, and the days are written into the row."""
    projects = three_projects()
    share = [projects[0]] * 36 + [projects[1]] * 10 + [projects[2]] * 4
    random.Random(64).shuffle(share)
    runs = [fresh_site.start_run(f"run {n}", project=project) for n, project in enumerate(share)]
    old = fresh_site.start_run("low, but patient", project=projects[0], priority=-1)
    order = shown()
    assert order[-1] == old.pk
    claimed = [claim_and_end() for _ in range(40)]
    assert claimed == order[:40]
    place = {key: n for n, key in enumerate(claimed)}
    small = [run.pk for run in runs if run.project == projects[2]]
    assert max(place[key] for key in small) < 3 * len(small), "its turn comes with every third"
    two_days_pass(old)
    assert shown()[0] == old.pk
    rest = shown()
    assert [claim_and_end() for _ in rest] == rest
    assert lifecycle.claim("cpu0") is None


def claim_and_end() -> int:
    run = lifecycle.claim("cpu0")
    assert run
    assert lifecycle.running(run.pk, run.fence)
    assert lifecycle.succeed(run.pk, run.fence, {"student": {}})
    return run.pk


def two_days_pass(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(queued=run.queued - timedelta(hours=49))
