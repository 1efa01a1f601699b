"""Palette, keys, stars, tags, trash, notes and languages, as a person has them, with a mouse and without."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, expect

from tests.browser.site import PASSWORD, Site, running
from tests.browser.visitor import Visitor

pytestmark = [pytest.mark.server, pytest.mark.browser]
HOSTILE = """# Why

<script>window.harmed = 1</script> <img src=x onerror='window.harmed = 1'> [x](javascript:harmed=1)"""
ROWS = f"""
from django.contrib.auth.models import User
from experiments.models import Artifact, Experiment, Run, Tag
from tests.experiments import make
ana = User.objects.create_superuser("ana", password={PASSWORD!r})
why = Experiment.objects.create(project=make.a_project(), name="Which temperature")
make.a_teacher("Tall teacher")
done = {{"status": "succeeded", "accuracy": 0.9, "owner": ana, "experiment": why, "notes": {HOSTILE!r}}}
runs = [make.a_run(name=f"student T={{n}}", **done) for n in range(1, 7)]
Artifact.objects.create(run=runs[0], kind="student", path="x", sha256="0", bytes=2_500_000, step=1, fence=1)
make.a_run(name="long one", status="queued", owner=ana)
Tag.objects.create(project=make.a_project(), name="baseline").runs.add(runs[5])
"""
KEYS_OF_HELP = """
[...document.querySelectorAll("#help dd")].map((dd) => [...dd.children].map((k) => k.textContent).join(" "))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory, ROWS) as site:
        yield site


@pytest.fixture(autouse=True)
def nothing_to_complain_of(ana: Visitor) -> Iterator[None]:
    yield
    assert ana.complaints == []


def accessible(ana: Visitor) -> None:
    found = Axe().run(ana.page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def listening(ana: Visitor) -> None:
    """A page that has only just been drawn hears no keys yet."""
    ana.until("Boolean(window.kd)")


def press(ana: Visitor, keys: str) -> None:
    listening(ana)
    for key in keys.split():
        ana.page.keyboard.press(key)


def palette(ana: Visitor, text: str = "") -> Locator:
    """Opened by its key; the choice that is marked."""
    listening(ana)
    ana.page.keyboard.press("Control+k")
    expect(ana.page.get_by_role("combobox", name="Go to anything")).to_be_focused()
    ana.page.keyboard.type(text)
    return ana.page.locator("#palette [aria-selected=true]")


def said(ana: Visitor, text: str) -> None:
    expect(ana.page.locator("#toasts")).to_contain_text(text)


def go_to(ana: Visitor, name: str) -> None:
    expect(palette(ana, name).locator(".truncate").first).to_have_text(name)
    ana.page.keyboard.press("Enter")
    ana.heading(name)
    ana.page.wait_for_load_state()  # keys do something once the scripts are there


# --- Palette ------------------------------------------------------------------------------------------------
def test_the_palette_goes_to_a_run_by_keys_alone_and_remembers_it(ana: Visitor) -> None:
    marked = palette(ana, "t=3")
    expect(marked).to_contain_text("student T=3")
    field = ana.page.get_by_role("combobox", name="Go to anything")
    assert field.get_attribute("aria-activedescendant") == marked.get_attribute("id")
    accessible(ana)
    ana.page.keyboard.press("ArrowDown")
    expect(marked).to_contain_text("Filter the runs by “t=3”")
    ana.page.keyboard.press("ArrowUp")
    ana.page.keyboard.press("Enter")
    ana.heading("student T=3")
    expect(palette(ana)).to_contain_text("student T=3")
    expect(ana.page.locator("#palette .palette-group").first).to_have_text("Recent")
    accessible(ana)
    ana.page.keyboard.press("Escape")
    expect(ana.page.locator("#palette")).to_be_hidden()


def test_what_is_typed_and_sent_in_one_go_is_waited_for(ana: Visitor) -> None:
    press(ana, "Control+k")
    ana.page.keyboard.type("Tall teacher")
    ana.page.keyboard.press("Enter")
    ana.heading("Tall teacher")


def test_the_palette_does_what_the_page_offers(ana: Visitor) -> None:
    root = ana.page.locator("html")
    for choice, theme in (("dark", "dark"), ("light", "light")):
        expect(palette(ana, f"theme {choice}")).to_contain_text(re.compile(choice, re.I))
        ana.page.keyboard.press("Enter")
        expect(root).to_have_attribute("data-theme", theme)
    go_to(ana, "long one")
    expect(palette(ana, "pause")).to_contain_text("Pause")
    ana.page.keyboard.press("Enter")
    said(ana, "long one is paused.")


def test_it_opens_from_its_button_and_on_a_phone(ana: Visitor) -> None:
    ana.page.set_viewport_size({"width": 390, "height": 844})
    ana.page.locator(".topbar").get_by_role("button", name="Go to anything").click()
    expect(ana.page.get_by_role("combobox", name="Go to anything")).to_be_focused()
    ana.page.keyboard.press("Escape")
    expect(ana.page.locator("#palette")).to_be_hidden()
    ana.page.set_viewport_size({"width": 1440, "height": 900})


# --- Keys ---------------------------------------------------------------------------------------------------
def test_a_list_is_walked_chosen_from_and_opened_by_keys(ana: Visitor) -> None:
    page = ana.page
    ana.open("/teachers/")
    press(ana, "g r")
    ana.heading("Runs")
    press(ana, "j j k")
    expect(page.locator("tbody tr", has_text="long one").locator(".name a")).to_be_focused()
    press(ana, "j x")
    expect(page.get_by_label("Select student T=6")).to_be_checked()
    press(ana, "/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("jx")
    expect(page.locator("#q")).to_have_value("jx")
    ana.open("/runs/")
    press(ana, "j j Enter")
    ana.heading("student T=6")


def test_a_run_is_starred_its_notes_opened_and_its_neighbours_reached_by_keys(ana: Visitor) -> None:
    page = ana.page
    go_to(ana, "student T=4")
    star = page.get_by_role("button", name="Star student T=4")
    press(ana, "s")
    expect(star).to_have_attribute("aria-pressed", "true")
    press(ana, "]")
    ana.heading("student T=3")
    press(ana, "[")
    ana.heading("student T=4")
    expect(star).to_have_attribute("aria-pressed", "true")
    press(ana, "e")
    expect(page.locator("#notes-text")).to_be_focused()


def test_help_lists_exactly_the_keys_that_do_something_here(ana: Visitor) -> None:
    page, help_dialog = ana.page, ana.page.locator("#help")
    go_to(ana, "student T=5")
    press(ana, "?")
    expect(help_dialog).to_be_visible()
    accessible(ana)
    here = set(page.evaluate(KEYS_OF_HELP))
    assert {"s", "e", "[", "]", "g r", "Ctrl K"} <= here
    assert not {"p", "j", "x"} & here
    page.keyboard.press("Escape")
    ana.open("/runs/")
    press(ana, "?")
    expect(help_dialog).to_be_visible()
    assert {"j", "k", "x", "Enter", "/"} <= set(page.evaluate(KEYS_OF_HELP))
    page.keyboard.press("Escape")


def test_keys_are_switched_off_for_those_whom_they_disturb(ana: Visitor) -> None:
    page = ana.page
    ana.open("/runs/")
    switch = page.locator(".sidebar [data-keys-switch]")
    for state in ("false", "true"):
        listening(ana)
        page.locator(".sidebar .account").click()
        switch.click()
        expect(switch).to_have_attribute("aria-checked", state)
        page.keyboard.press("j")
        focused = page.evaluate("Boolean(document.activeElement.closest('tbody'))")
        assert focused == (state == "true")
    page.locator(".sidebar .account").click()
    accessible(ana)
    page.keyboard.press("Escape")


# --- Tags, trash, notes -------------------------------------------------------------------------------------
def test_a_tag_is_added_with_completion_and_leads_to_all_runs_that_bear_it(ana: Visitor) -> None:
    page = ana.page
    go_to(ana, "student T=2")
    page.get_by_role("button", name="Add a tag").click()
    field = page.get_by_label("New tag")
    expect(field).to_be_focused()
    assert page.locator("#known-tags option").evaluate_all("all => all.map((one) => one.value)") == [
        "baseline"
    ]
    field.fill("two words")
    field.press("Enter")
    expect(page.locator("#tag-error")).to_contain_text("cannot be in a tag")
    accessible(ana)
    page.get_by_label("New tag").fill("baseline")
    page.get_by_label("New tag").press("Enter")
    expect(page.get_by_role("button", name="Take baseline off")).to_be_visible()
    page.get_by_role("button", name="Done").click()
    page.locator(".run-tags").get_by_role("link", name="baseline").click()
    ana.heading("Runs")
    expect(page.locator("#runs tbody tr .name")).to_have_text(["student T=6", "student T=2"])


def test_a_run_goes_to_the_trash_comes_back_and_goes_for_good(ana: Visitor) -> None:
    page = ana.page
    go_to(ana, "student T=1")
    for _ in range(2):
        page.get_by_label("More", exact=True).click()
        page.get_by_role("button", name="Move to trash").click()
        expect(page.get_by_text("This run is in the trash.")).to_be_visible()
        said(ana, "student T=1 is in the trash.")
        page.locator("#toasts").get_by_role("button", name="Undo").last.click()
        expect(page.get_by_text("This run is in the trash.")).to_be_hidden()
        said(ana, "student T=1 is restored.")
    page.get_by_label("More", exact=True).click()
    page.get_by_role("button", name="Move to trash").click()
    expect(page.get_by_text("This run is in the trash.")).to_be_visible()
    ana.open("/runs/")
    expect(page.locator("tbody tr", has_text="student T=1")).to_have_count(0)
    ana.open("/trash/")
    row = page.locator("tbody tr", has_text="student T=1")
    expect(row).to_contain_text("2.50 MB")
    expect(row).to_contain_text("in 30 days")
    accessible(ana)
    row.get_by_role("button", name="Restore").click()
    expect(page.get_by_text("The trash is empty")).to_be_visible()
    page.locator("#toasts").get_by_role("button", name="Undo").last.click()
    row.get_by_role("button", name="Delete").click()
    dialog = page.locator("#confirm")
    expect(dialog.get_by_role("button", name="Delete for good")).to_be_disabled()
    dialog.get_by_role("textbox").fill("student T=1")
    dialog.get_by_role("button", name="Delete for good").click()
    said(ana, "student T=1 is deleted.")
    expect(page.get_by_text("The trash is empty")).to_be_visible()


def test_a_hostile_note_is_shown_and_does_nothing(ana: Visitor) -> None:
    page = ana.page
    go_to(ana, "student T=5")
    notes = page.locator("#run-notes")
    expect(notes.get_by_role("heading", name="Why")).to_be_visible()
    expect(notes).to_contain_text("<script>window.harmed = 1</script>")
    press(ana, "e")
    notes.get_by_role("button", name="Preview").click()
    expect(notes.get_by_role("region", name="Preview")).to_contain_text("onerror")
    accessible(ana)
    assert page.evaluate("window.harmed") is None
    notes.get_by_role("button", name="Write").click()
    notes.get_by_role("textbox").fill("**better**")
    notes.get_by_role("button", name="Save").click()
    expect(notes.locator("strong")).to_have_text("better")
    expect(notes).to_contain_text("Saved by ana")


# --- Languages ----------------------------------------------------------------------------------------------
def test_the_language_is_chosen_in_the_menu_remembered_and_chosen_back(ana: Visitor) -> None:
    page = ana.page
    ana.open("/trash/")
    for code in ("zh-hans", "en"):
        page.locator(".sidebar .account").click()
        page.locator(f".sidebar button[name=language][value={code}]").click()
        expect(page.locator("html")).to_have_attribute("lang", code)
        assert ana.path == "/trash/"
        ana.open("/teachers/")
        expect(page.locator("html")).to_have_attribute("lang", code)
        ana.open("/trash/")
