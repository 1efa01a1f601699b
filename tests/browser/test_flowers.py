"""Real photographs: an archive of flowers goes up in the browser, and a student is distilled on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.site import PASSWORD
from tests.browser.visitor import TRAINING, Visitor

pytestmark = [pytest.mark.server, pytest.mark.browser, pytest.mark.timeout(900)]
FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers" / "flowers-128.zip"
SOON = TRAINING * 1000


@pytest.fixture(scope="module")
def flowers() -> Path:
    if not FLOWERS.exists():
        pytest.skip(f"the photographs are not here: {FLOWERS}")
    return FLOWERS


def test_flowers_go_up_and_a_student_is_distilled_on_them(flowers: Path, visitor: Visitor) -> None:
    page = visitor.page
    visitor.log_in("admin", PASSWORD)
    visitor.open("/datasets/new/?kind=image_folder")
    visitor.field("Name").fill("Flowers")
    visitor.field("Image size").fill("32")
    visitor.field("File").set_input_files(flowers)
    page.get_by_role("button", name="Upload and prepare").click()
    rows = page.locator(".samples-table tbody tr")
    expect(rows).to_have_count(5, timeout=SOON)
    expect(rows.first).to_contain_text("240")

    page.get_by_role("link", name="Train a teacher").click()
    visitor.field("Network").fill("resnet20")
    visitor.field("Epochs").fill("3")
    visitor.field("Name").fill("Florist")
    page.get_by_role("button", name="Start").click()
    visitor.heading("Florist")
    visitor.state("succeeded", 2 * TRAINING)

    page.locator("#run-summary").get_by_role("link", name="Florist").click()
    page.get_by_role("link", name="Distil from it").click()
    visitor.field("Network").fill("resnet8")
    visitor.field("Epochs").fill("3")
    visitor.field("Name").fill("Apprentice")
    page.get_by_role("button", name="Start").click()
    visitor.heading("Apprentice")
    visitor.state("succeeded", 2 * TRAINING)
    distilled = visitor.runs()[0] if visitor.runs()[0]["name"] == "Apprentice" else visitor.runs()[1]
    assert distilled["accuracy"] > 0.3, "five classes: better than guessing"
    assert distilled["gain"] is not None
    assert visitor.complaints == []
