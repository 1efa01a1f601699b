"""Pause, resume, stop, try again, delete, notes and drain as a person does them. The rows are made here and a
script plays the worker: what a real one does is shown elsewhere, here the pages are the subject."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.browser.site import PASSWORD, Site, running
from tests.browser.visitor import Visitor

pytestmark = [pytest.mark.server, pytest.mark.browser]
ROWS = f"""
from datetime import timedelta
from django.contrib.auth.models import User
from django.utils import timezone
from experiments import lifecycle
from experiments.models import Artifact, Attempt, Run, Worker
from tests.experiments import make
ana = User.objects.create_superuser("ana", password={PASSWORD!r})
now = timezone.now()
machine = {{"cpu": 62.5, "cores": 16, "load": 9.75, "memory": 40.0, "memory_used": 51e9, "memory_total": 128e9,
    "engine_memory": 3.2e9, "disk_free": 700e9,
    "gpus": [{{"name": "NVIDIA H100", "utilisation": 87.0, "memory_used": 21e9, "memory_total": 85e9}}]}}
def attempts(run):
    went = {{"outcome": "lost", "reason": "Its worker went silent.", "step": 64, "ended": now - timedelta(minutes=5)}}
    Attempt.objects.create(run=run, number=1, worker="gpu1@workstation", device="NVIDIA H100", **went)
    Attempt.objects.create(run=run, number=2, worker="gpu0@workstation", device="NVIDIA H100", from_step=60)
    Attempt.objects.filter(run=run, number=1).update(started=now - timedelta(minutes=30))
    Artifact.objects.create(run=run, kind="resume", path=f"runs/{{run.pk}}/60.kdck", sha256="ab" * 32,
        bytes=10**15, step=60, fence=1)
def at_work(name, **values):
    made = make.a_run(name=name, status="draft", owner=ana, training={{"epochs": 20, "seed": 0}})
    lifecycle.submit(made, ana)
    made.status, made.fence, made.started = "running", 2, now - timedelta(minutes=30)
    made.lease_owner, made.phase, made.step, made.total_steps, made.epoch = "gpu0@workstation", "Training", 70, 200, 7
    made.rate, made.eta = 12345.0, 700.0
    for field, value in values.items():
        setattr(made, field, value)
    made.save()
    attempts(made)
    return made
life = at_work("The long one")
old = at_work("Another one")
full = at_work("No room", inexact="It was begun with torch 2.12.0 and goes on with torch 2.13.0.")
lifecycle.disk_full(full.pk, 2, "last.kdck: 900 TB are needed and there is no space left. Free some, or move KDWEB_HOME.")
for name in ("First to wait", "Second to wait"):
    lifecycle.submit(make.a_run(name=name, owner=ana), ana)
broken = at_work("Broken")
lifecycle.fail(broken.pk, 2, "learning_rate = 50: the loss is not a number since step 71. Use 0.05.")
Worker.objects.create(name="gpu0@workstation", host="workstation", queue="cpu,gpu,control", device="NVIDIA H100",
    device_kind="cuda", versions={{"kdweb": "0.1.0", "python": "3.12.4", "torch": "2.13.0"}}, run=life, usage=machine,
    heartbeat=now + timedelta(days=1), started=now - timedelta(days=3))
Worker.objects.create(name="cpu0@laptop", host="laptop", queue="cpu", device="CPU (8 cores)", heartbeat=now + timedelta(days=1),
    versions={{"kdweb": "0.1.0", "python": "3.11.9", "torch": "2.12.0"}}, usage={{"cpu": 3.0, "memory": 31.0}})
Worker.objects.create(name="gpu7@basement", host="basement", queue="gpu", device="NVIDIA A100", versions={{"torch": "2.13.0"}},
    heartbeat=now + timedelta(days=1), trouble="Out of rotation: CUDA error: the GPU has fallen off the bus. Restart the machine.")
Worker.objects.create(name="gone@nowhere", host="nowhere", queue="cpu", device="CPU", heartbeat=now - timedelta(hours=3))
"""  # noqa: E501


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory, ROWS) as site:
        yield site


def the_worker_obeys(site: Site, name: str) -> None:
    code = "from experiments import lifecycle; from experiments.models import Run; "
    code += f"run = Run.objects.get(name={name!r}); assert lifecycle.stopped(run.pk, run.fence)"
    site.manage("shell", "-v0", "-c", code)


def go_to(ana: Visitor, name: str) -> None:
    ana.open("/runs/")
    ana.page.get_by_role("link", name=name, exact=True).click()
    ana.heading(name)


def said(ana: Visitor, words: str) -> None:
    expect(ana.page.locator("#toasts")).to_contain_text(words)


# --- A run --------------------------------------------------------------------------------------------------
def test_a_run_is_paused_and_goes_on(ana: Visitor, site: Site) -> None:
    page = ana.page
    go_to(ana, "The long one")
    page.get_by_role("button", name="Pause").click()
    said(ana, "The long one will pause.")
    expect(page.locator("#run-summary")).to_contain_text("Pausing")
    the_worker_obeys(site, "The long one")
    ana.state("paused", seconds=30)  # by itself: the page is not reloaded
    expect(page.locator("#run-summary .message")).to_contain_text("from its checkpoint at step 60")
    page.get_by_role("button", name="Resume").click()
    said(ana, "The long one goes on.")
    ana.state("queued")
    expect(page.locator("#run-summary .message")).to_contain_text("1st in the queue.")  # it kept its turn


def test_its_priority_moves_it_back_and_to_the_front(ana: Visitor) -> None:
    for level, place in (("Low", "3rd"), ("High", "1st")):
        ana.page.get_by_role("button", name=level).click()
        said(ana, f"The priority of The long one is {level.lower()} now.")
        expect(ana.page.locator("#run-summary .message")).to_contain_text(f"{place} in the queue.")
    expect(ana.page.get_by_role("button", name="High")).to_have_attribute("aria-pressed", "true")


def test_a_second_tab_from_before_is_told_how_things_are(browser: Browser, ana: Visitor) -> None:
    """It runs no scripts: one that does would have been told by the live stream already."""
    state = ana.context.storage_state()
    context = browser.new_context(java_script_enabled=False, storage_state=state)
    other = context.new_page()
    other.goto(ana.page.url)
    ana.page.get_by_role("button", name="Stop").click()
    ana.page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
    ana.state("cancelled")
    other.get_by_role("button", name="Pause").click()
    expect(other.locator("#toasts")).to_contain_text("was cancelled: there is nothing to pause.")
    context.close()


def test_it_is_tried_again_and_deleted_by_its_name(ana: Visitor) -> None:
    page = ana.page
    page.get_by_role("button", name="Try again", exact=True).click()
    said(ana, "is tried again from its last checkpoint")
    ana.state("queued")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
    ana.state("cancelled")
    page.get_by_label("More", exact=True).click()
    page.get_by_role("button", name="Try again from the start").click()
    page.get_by_role("dialog").get_by_role("button", name="From the start").click()
    said(ana, "is tried again from the start")
    page.get_by_label("More", exact=True).click()
    page.get_by_role("button", name="Move to trash").click()
    said(ana, "The long one is cancelled and in the trash.")
    expect(page.get_by_text("This run is in the trash.")).to_be_visible()
    page.get_by_label("More", exact=True).click()
    page.get_by_role("button", name="Delete for good").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Delete for good")).to_be_disabled()
    dialog.get_by_role("textbox").fill("The long one")
    with ana.answered(404):  # the page that is left may still ask for the charts of what is gone
        dialog.get_by_role("button", name="Delete for good").click()
        ana.heading("Trash")
    said(ana, "The long one is deleted.")
    expect(page.get_by_role("link", name="The long one")).to_have_count(0)


def test_of_two_who_write_notes_the_second_loses_nothing(ana: Visitor) -> None:
    go_to(ana, "Broken")
    other = ana.context.new_page()
    other.goto(ana.page.url)
    for page, text in ((ana.page, "The rate was meant to be 0.05."), (other, "See run 7.")):
        notes = page.locator("#run-notes")
        notes.get_by_role("link", name="Edit").click()
        notes.get_by_role("textbox").fill(text)
    ana.page.locator("#run-notes").get_by_role("button", name="Save").click()
    expect(ana.page.locator("#run-notes .notes")).to_have_text("The rate was meant to be 0.05.")
    notes = other.locator("#run-notes")
    notes.get_by_role("button", name="Save").click()
    expect(notes.get_by_role("alert")).to_contain_text("Somebody else has saved these notes")
    expect(notes.locator(".theirs")).to_have_text("The rate was meant to be 0.05.")
    expect(notes.get_by_role("textbox")).to_have_value("See run 7.")
    notes.get_by_role("textbox").fill("The rate was meant to be 0.05. See run 7.")
    notes.get_by_role("button", name="Save").click()
    expect(notes.locator(".notes")).to_have_text("The rate was meant to be 0.05. See run 7.")
    other.close()


def test_the_chosen_runs_are_paused_together(ana: Visitor) -> None:
    page = ana.page
    ana.open("/runs/")
    for name in ("First to wait", "Second to wait", "Broken"):
        page.get_by_label(f"Select {name}").check()
    bar = page.locator("[data-bulkbar]")
    bar.locator("summary", has_text="More").click()
    bar.get_by_role("button", name="Pause").click()
    said(ana, "2 of 3 will pause. Broken has failed: there is nothing to pause.")
    expect(page.locator("tr", has_text="First to wait").locator("[data-status=paused]").first).to_be_visible()
    if not bar.get_by_role("button", name="Resume").is_visible():  # the list was renewed, its menu closed
        bar.locator("summary", has_text="More").click()
    bar.get_by_role("button", name="Resume").click()
    said(ana, "2 of 3 go on.")


# --- Workers ------------------------------------------------------------------------------------------------
def card(ana: Visitor, name: str) -> Any:
    return ana.page.locator(f"[data-worker='{name}']")


def test_a_worker_is_drained_and_taken_back_and_a_forgotten_one_removed(ana: Visitor) -> None:
    ana.open("/workers/")
    card(ana, "cpu0@laptop").get_by_role("button", name="Drain").click()
    said(ana, "cpu0@laptop takes no further run")
    expect(card(ana, "cpu0@laptop")).to_have_attribute("data-state", "drained")
    card(ana, "cpu0@laptop").get_by_role("button", name="Undrain").click()
    expect(card(ana, "cpu0@laptop")).to_have_attribute("data-state", "online")
    expect(card(ana, "gpu7@basement").get_by_role("alert")).to_contain_text("fallen off the bus")
    card(ana, "gone@nowhere").get_by_role("button", name="Remove").click()
    ana.page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    said(ana, "gone@nowhere is forgotten.")
    expect(card(ana, "gone@nowhere")).to_have_count(0)


def test_the_health_page_is_one_step_away(ana: Visitor) -> None:
    ana.page.get_by_role("link", name="Health").first.click()
    ana.heading("Health")
    expect(ana.page.locator("[data-check=broker]")).to_have_attribute("data-state", "fine")
    expect(ana.page.locator("[data-check=workers]")).to_have_attribute("data-state", "warning")


# --- Phones, readers ----------------------------------------------------------------------------------------
PAGES = ["Another one", "No room", "Broken", "First to wait", "/workers/", "/health/", "/runs/", "/"]


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_a_phone_and_all_can_be_read_aloud(ana: Visitor, name: str) -> None:
    page = ana.page
    page.set_viewport_size({"width": 390, "height": 844})
    if name.startswith("/"):
        ana.open(name)
    else:
        go_to(ana, name)
    for theme in ("light", "dark"):
        page.evaluate(f"window.kdTheme('{theme}')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1440, "height": 900})
    for theme in ("dark", "light"):
        page.evaluate(f"window.kdTheme('{theme}')")
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_the_console_had_nothing_to_complain_of(ana: Visitor) -> None:
    assert ana.complaints == []
