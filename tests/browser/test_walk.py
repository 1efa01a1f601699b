"""A newcomer's walk through a whole kdweb: an empty folder, `manage.py up`, and a browser. Each test goes on
where the one before it ended."""

from __future__ import annotations

import io
import os
import re
import signal
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, expect

from tests.browser.site import PASSWORD
from tests.browser.visitor import TRAINING, Visitor
from tests.running import Stack, gone, manage

pytestmark = [pytest.mark.server, pytest.mark.browser]
SOON = TRAINING * 1000  # ms, for what a worker has to do first


@dataclass
class Story:
    """What the walk has made so far: addresses by name, and the weights of the first student."""

    paths: dict[str, str] = field(default_factory=dict)
    weights: bytes = b""

    def run(self, name: str) -> int:
        return int(re.findall(r"\d+", self.paths[name])[0])


@pytest.fixture(scope="module")
def story() -> Story:
    return Story()


# --- The way to a finished run ------------------------------------------------------------------------------
def test_a_wrong_password_is_told_and_the_right_one_opens_the_home_page(visitor: Visitor) -> None:
    visitor.open("/runs/")
    assert visitor.path.startswith("/login/?next=")
    visitor.log_in("admin", "not the password")
    expect(visitor.page.get_by_role("alert")).to_contain_text("correct username and password")
    visitor.log_in("admin", PASSWORD)
    visitor.heading("First project")
    expect(visitor.page.get_by_role("link", name="Add a dataset")).to_be_visible()


def test_somebody_without_a_project_is_told_whom_to_ask(browser: Browser, stack: Stack) -> None:
    code = (
        f"from django.contrib.auth.models import User; User.objects.create_user('new', password={PASSWORD!r})"
    )
    assert manage(stack.home, stack.port, "shell", "-c", code).returncode == 0
    new = Visitor(browser, f"http://localhost:{stack.port}")
    new.log_in("new", PASSWORD)
    expect(new.page.get_by_text("Ask an administrator to add you to one.")).to_be_visible()
    new.context.close()
    assert new.complaints == []


def test_the_digits_are_prepared_from_the_page_and_show_classes_and_samples(
    visitor: Visitor, story: Story
) -> None:
    page = visitor.page
    page.get_by_role("link", name="Add a dataset").click()
    page.get_by_role("link", name="Digits (scikit-learn)").click()
    visitor.field("Name").fill("Digits")
    page.get_by_role("button", name="Prepare").click()
    rows = page.locator(".samples-table tbody tr")
    expect(rows).to_have_count(10, timeout=SOON)
    expect(rows.first.locator("img").first).to_be_visible()
    visitor.until("document.querySelector('.samples img').naturalWidth >= 8")
    story.paths["dataset"] = visitor.path


def test_a_teacher_is_trained_from_the_page(visitor: Visitor, story: Story) -> None:
    page = visitor.page
    page.get_by_role("link", name="Train a teacher").click()
    expect(page.get_by_role("radio", name="Train a teacher")).to_be_checked()
    visitor.field("Network").fill("resnet8")
    visitor.field("Epochs").fill("4")
    visitor.field("Batch size").fill("64")
    visitor.field("Name").fill("Digits teacher")
    page.get_by_role("button", name="Start").click()
    visitor.heading("Digits teacher")
    story.paths["teacher run"] = visitor.path
    visitor.state("succeeded")
    page.locator("#run-summary").get_by_role("link", name="Digits teacher").click()
    story.paths["teacher"] = visitor.path
    expect(tile(visitor, "Accuracy")).to_have_text(re.compile(r"\d\d\.\d+\s%"))


def tile(visitor: Visitor, label: str) -> Locator:
    """The value of a tile."""
    tiles = visitor.page.locator(".tile", has=visitor.page.get_by_text(label, exact=True))
    return tiles.first.locator(".tile-value")


def test_the_checks_tell_facts_and_proposals_while_one_types(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("link", name="Distil from it").click()
    checks = page.locator("#run-check")
    visitor.field("Network").fill("resnet8")
    expect(checks).to_contain_text("10 classes")
    expect(page.locator("#formula")).to_have_text("L = 0.1·CE + 0.9·KD(T=4)")
    visitor.field("Temperature").fill("2")
    expect(page.locator("#formula")).to_have_text("L = 0.1·CE + 0.9·KD(T=2)")
    visitor.field("Network").fill("resnet9")
    expect(checks).to_contain_text("resnet9")


def test_bad_input_is_told_at_its_field_and_starts_nothing(visitor: Visitor) -> None:
    page, before = visitor.page, visitor.runs()
    visitor.field("Network").fill("resnet8")
    visitor.field("Epochs").fill("-3")
    visitor.field("Temperature").fill("0")
    with visitor.answered(422):
        page.get_by_role("button", name="Start").click()
        expect(page.locator(".field.invalid")).to_have_count(2)
    expect(visitor.error("Epochs")).to_contain_text("Use 1 or more.")
    expect(visitor.error("Temperature")).to_contain_text("Use 0.05 or more.")
    assert visitor.field("Epochs").input_value() == "-3"
    assert visitor.runs() == before


def test_a_student_is_started_with_its_control(visitor: Visitor, story: Story) -> None:
    page = visitor.page
    visitor.field("Epochs").fill("12")
    visitor.field("Temperature").fill("4")
    visitor.field("Batch size").fill("64")
    visitor.field("Name").fill("From the teacher")
    visitor.field("Control").select_option("Run the control too")
    page.get_by_role("button", name="Start").click()
    visitor.heading("From the teacher")
    purposes = {run["purpose"]: run for run in visitor.runs()}
    story.paths |= {name: f"/runs/{purposes[name]['id']}/" for name in ("distil", "control")}
    assert purposes["distil"]["name"] == "From the teacher"


def test_its_page_grows_while_it_trains_without_being_loaded_again(visitor: Visitor, story: Story) -> None:
    page = visitor.page
    visitor.open(story.paths["distil"])
    page.evaluate("window.sameDocument = true")
    visitor.state("running")
    lines = page.locator("#run-log .log-line")
    seen, said = set(), set()
    while page.locator("#run-summary[data-state=running]").count():
        seen.add(len(visitor.points("objective", "total")))
        said.add(lines.count())
        page.wait_for_timeout(100)
    visitor.state("succeeded")
    assert page.evaluate("window.sameDocument")
    assert len(seen - {0}) >= 3, f"the curve had these lengths while it trained: {sorted(seen)}"
    assert len(said - {0}) >= 2, f"the console had these lengths: {sorted(said)}"
    for label in ("Student accuracy", "Teacher accuracy", "Control accuracy"):
        expect(tile(visitor, label)).to_have_text(re.compile(r"\d+\.\d+\s%"))
    expect(tile(visitor, "Distillation gain")).to_have_text(re.compile(r"[+−]?\d"))


def test_every_step_is_drawn_once_and_again_after_a_reload(visitor: Visitor, story: Story) -> None:
    steps = visitor.steps(story.run("distil"), "loss/total")
    assert steps == list(range(1, len(steps) + 1))
    assert visitor.points("objective", "total") == steps
    visitor.page.reload()
    visitor.until("document.querySelector('[data-live-state]').dataset.liveState === 'ended'")
    visitor.until("document.querySelector('[data-chart=objective] .main-svg')")
    assert visitor.points("objective", "total") == steps


# --- What one does next -------------------------------------------------------------------------------------
def test_the_weights_come_down_as_safetensors(visitor: Visitor, story: Story) -> None:
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("link", name="Weights").click()
    assert download.value.suggested_filename.endswith(".safetensors")
    story.weights = Path(download.value.path()).read_bytes()
    assert b"conv1.weight" in story.weights[:4000]


def test_a_clone_brings_the_settings_and_a_long_run_is_stopped(visitor: Visitor, story: Story) -> None:
    page = visitor.page
    page.get_by_role("link", name="Clone").click()
    visitor.heading("Clone a run")
    expect(visitor.field("Name")).to_have_value("From the teacher (copy)")
    expect(visitor.field("Epochs")).to_have_value("12")
    expect(visitor.field("Temperature")).to_have_value("4.0")
    expect(visitor.field("Network")).to_have_value("resnet8")
    visitor.field("Epochs").fill("5000")
    visitor.field("Control").select_option("No control")
    page.get_by_role("button", name="Start").click()
    visitor.heading("From the teacher (copy)")
    story.paths["stopped"] = visitor.path
    visitor.state("running")
    visitor.until("document.querySelector('[data-chart=objective] .main-svg')")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
    visitor.state("cancelled")
    expect(page.locator("#run-summary .message")).to_contain_text("Stopped by request.")
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)


def test_two_runs_are_laid_over_each_other_with_only_what_differs(visitor: Visitor, story: Story) -> None:
    visitor.open(story.paths["distil"])
    visitor.page.get_by_role("link", name="Compare with control").click()
    visitor.heading("Compare")
    story.paths["compare"] = visitor.path
    runs = {story.run("distil"), story.run("control")}
    visitor.page.locator("[data-chart=accuracy]").scroll_into_view_if_needed()  # drawn where it is seen
    visitor.until("document.querySelector('[data-chart=accuracy] .main-svg')")
    drawn = "document.querySelector('[data-chart=accuracy] .chart-plot').data.map((trace) => trace.meta?.run)"
    assert runs <= set(visitor.page.evaluate(drawn))
    shown = visitor.page.locator("[data-config] tbody tr:visible").all_inner_texts()
    assert any(row.startswith("Teacher") for row in shown), shown
    assert not any(row.startswith(("Epochs", "Dataset", "Seed")) for row in shown), shown


# --- What one brings ----------------------------------------------------------------------------------------
def a_zip(**extra: bytes) -> bytes:
    """Three classes of twelve tiny pictures each, and what else is named."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, name in enumerate(("circle", "cross", "dot")):
            for i in range(12):
                picture = io.BytesIO()
                Image.new("RGB", (16, 16), (80 * number, 20 * i, 255 - 20 * i)).save(picture, "PNG")
                archive.writestr(f"shapes/{name}/{i}.png", picture.getvalue())
        for name, content in extra.items():
            archive.writestr(f"shapes/{name}.txt", content)
    return target.getvalue()


def send(visitor: Visitor, name: str, content: bytes) -> None:
    """Chooses a file in the page's form."""
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    visitor.field("File").set_input_files(files=[file])  # type: ignore[list-item]


REMEMBER_PROGRESS = """
new MutationObserver(() => {
    const said = JSON.parse(sessionStorage.progress ?? "[]");
    said.push(document.querySelector("form progress").value);
    sessionStorage.progress = JSON.stringify(said);
}).observe(document.querySelector("[data-upload-words]"), { childList: true });
"""


def test_a_zip_of_folders_goes_up_in_pieces_and_becomes_a_dataset(visitor: Visitor, story: Story) -> None:
    page = visitor.page
    visitor.open("/datasets/new/?kind=image_folder")
    visitor.field("Name").fill("Shapes")
    visitor.field("Image size").fill("16")
    content = a_zip(ballast=os.urandom(18 << 20))  # three pieces
    send(visitor, "shapes.zip", content)
    page.evaluate(REMEMBER_PROGRESS)
    page.get_by_role("button", name="Upload and prepare").click()
    expect(page.locator(".samples-table tbody tr")).to_have_count(3, timeout=SOON)
    visitor.heading("Shapes")
    story.paths["uploaded dataset"] = visitor.path
    progress = page.evaluate("JSON.parse(sessionStorage.progress)")
    assert [8 << 20, 16 << 20, len(content)] == [sent for sent in progress if sent]
    expect(page.get_by_text("ballast.txt")).to_be_visible()


def test_an_empty_zip_is_refused_in_plain_words(visitor: Visitor, story: Story) -> None:
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    page = visitor.page
    visitor.open("/datasets/new/?kind=image_folder")
    visitor.field("Name").fill("Nothing")
    send(visitor, "nothing.zip", empty.getvalue())
    page.get_by_role("button", name="Upload and prepare").click()
    refusal = page.get_by_role("alert")
    expect(refusal).to_contain_text("Refused; nothing was stored.", timeout=SOON)
    expect(refusal).to_contain_text(re.compile("no (images|pictures|files)|empty"))
    story.paths["refused upload"] = visitor.path
    visitor.open("/datasets/")
    expect(page.get_by_role("link", name="nothing.zip")).to_be_visible()
    expect(page.get_by_role("link", name="Nothing", exact=True)).to_have_count(0)


def bring_a_teacher(visitor: Visitor, story: Story, name: str, architecture: str) -> None:
    page = visitor.page
    visitor.open("/teachers/upload/")
    visitor.field("Name").fill(name)
    visitor.field("Architecture").fill(architecture)
    visitor.field("Dataset").select_option("Digits")
    send(visitor, "student.safetensors", story.weights)
    page.get_by_role("button", name="Upload and check").click()


def test_a_checkpoint_becomes_a_teacher_with_its_accuracy(visitor: Visitor, story: Story) -> None:
    bring_a_teacher(visitor, story, "Uploaded", "resnet8")
    expect(tile(visitor, "Accuracy")).to_have_text(re.compile(r"\d\d\.\d+\s%"), timeout=SOON)
    visitor.heading("Uploaded")
    uploaded = tile(visitor, "Accuracy").inner_text()
    visitor.open(story.paths["distil"])
    expect(tile(visitor, "Student accuracy")).to_have_text(uploaded)


def test_a_checkpoint_of_another_network_is_refused_by_its_keys_and_shapes(
    visitor: Visitor, story: Story
) -> None:
    bring_a_teacher(visitor, story, "Misfit", "resnet8x4")
    refusal = visitor.page.get_by_role("alert")
    expect(refusal).to_contain_text("Refused; nothing was stored.", timeout=SOON)
    expect(refusal).to_contain_text(re.compile(r"\w+\.weight.*\d+×\d+|\w+\.weight.*\[\d+, \d+"))
    visitor.open("/teachers/")
    expect(visitor.page.get_by_role("link", name="Misfit")).to_have_count(0)


def test_the_admin_site_takes_a_checkpoint_too(visitor: Visitor, story: Story) -> None:
    page = visitor.page
    visitor.open("/admin/experiments/teacher/add/")
    visitor.field("Project").select_option("First project")
    visitor.field("Name").fill("By the admin")
    page.locator(".field-architecture .select2-selection").click()
    page.locator(".select2-search__field").fill("resnet8")
    page.get_by_role("option", name="resnet8", exact=True).click()
    visitor.field("Dataset").select_option("Digits")
    file = {"name": "student.safetensors", "mimeType": "application/octet-stream", "buffer": story.weights}
    visitor.field("Checkpoint").set_input_files(files=[file])  # type: ignore[list-item]
    page.get_by_role("button", name="Save", exact=True).click()
    expect(tile(visitor, "Accuracy")).to_have_text(re.compile(r"\d\d\.\d+\s%"), timeout=SOON)
    visitor.heading("By the admin")


# --- Keys, phones, readers ----------------------------------------------------------------------------------
def test_keys_open_the_help_and_lead_to_pages(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("r")
    visitor.heading("Runs")


PAGES = ["/", "/runs/", "/runs/new/", "distil", "stopped", "teacher run", "compare", "/compare/"]
PAGES += ["/datasets/", "/datasets/new/", "/datasets/new/?kind=image_folder", "dataset", "uploaded dataset"]
PAGES += ["/teachers/", "/teachers/upload/", "teacher", "refused upload", "/students/", "/students/new/"]
PAGES += ["/methods/", "/workers/"]


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_a_phone_and_all_can_be_read_aloud(
    visitor: Visitor, story: Story, name: str
) -> None:
    page = visitor.page
    page.set_viewport_size({"width": 390, "height": 844})
    visitor.open(story.paths.get(name, name))
    if page.locator("[data-charts]").count():
        page.locator("[data-chart]").first.scroll_into_view_if_needed()  # drawn once they are on the screen
        visitor.until("document.querySelector('[data-chart] .main-svg')")
    for theme in ("light", "dark"):
        page.evaluate(f"window.kdTheme('{theme}')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1440, "height": 900})
    for theme in ("dark", "light"):
        page.evaluate(f"window.kdTheme('{theme}')")
        assert serious(visitor) == []


def serious(visitor: Visitor) -> list[Any]:
    """What axe finds that keeps somebody from using the page."""
    found = Axe().run(visitor.page).response["violations"]
    return [
        (one["id"], one["help"], [(node["target"], node["failureSummary"]) for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_what_is_not_there_is_told_with_a_way_home(visitor: Visitor) -> None:
    with visitor.answered(404):
        visitor.open("/runs/999999/")
        visitor.heading("There is nothing here")
    visitor.page.get_by_role("link", name="Go home").click()
    visitor.heading("First project")


def test_the_console_had_nothing_to_complain_of(visitor: Visitor) -> None:
    assert visitor.complaints == []


def test_ctrl_c_ends_it_all_and_leaves_nothing_behind(visitor: Visitor, stack: Stack) -> None:
    visitor.page.goto("about:blank")
    family = [psutil.Process(stack.process.pid), *stack.family()]
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(timeout=60) == 0
    assert gone(family, 2) == []
    assert not list(stack.home.glob("run/*.json"))
    assert not list((stack.home / "uploads").iterdir())
