"""The form of a new run in Chromium: one click takes a published recipe; layers are proposed and edited."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.site import PASSWORD, Site, Tab, running

pytestmark = [pytest.mark.server, pytest.mark.browser]
ROWS = f"""
from django.contrib.auth.models import User
from experiments.models import Method
from tests.experiments import make
from tests.experiments.test_recipes import a_preset
User.objects.create_superuser("ana", password={PASSWORD!r})
make.methods()
training = {{"epochs": 240, "schedule": "step", "milestones": [0.625, 0.75]}}
ours = a_preset("our pair", teacher="resnet56", student="resnet8")
presets = [a_preset("any pair", training=training), ours]
Method.objects.create(key="at", title="Attention", schema=make.AT, needs=["features"], presets=presets)
for name in ("ResNet-56", "its twin"):
    make.a_teacher(name, architecture=make.an_architecture("resnet56"), metrics={{"top1": 0.981}})
make.profiled("resnet8", "layer", 16)
make.profiled("resnet56", "block", 32)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory, ROWS) as site:
        yield site


@pytest.fixture
def tab(browser: Any, site: Site) -> Iterator[Tab]:
    opened = Tab(browser, site)
    opened.open("/runs/new/")
    yield opened
    opened.context.close()
    assert opened.complaints == []


def use(tab: Tab, words: str) -> None:
    """Opens the list of recipes and takes one."""
    tab.page.locator("#recipes > summary").click()
    tab.page.locator("#recipes li", has_text=words).get_by_role("button").click()
    expect(tab.page.locator("#recipe-chosen")).to_contain_text(words)


def test_one_click_fills_the_form_with_a_recipe_and_says_its_source(tab: Tab) -> None:
    page = tab.page
    page.fill("#id_network", "")
    expect(page.locator("#recipes summary")).to_contain_text("1 in all")
    page.fill("#id_network", "resnet8")  # the list follows the pair of networks
    expect(page.locator("#recipes summary")).to_contain_text("1 for resnet56 → resnet8, 2 in all")
    expect(page.locator("#recipes li").first).to_contain_text("our pair")
    page.fill("#id_training-seed", "17")
    use(tab, "any pair")
    expect(page.locator("#formula")).to_have_text("L = CE + 1000·AT↗5 ep")
    expect(page.locator("#recipe-chosen")).to_contain_text("Source: Table 2 of the paper")
    expect(page.locator("#id_training-epochs")).to_have_value("240")
    expect(page.locator("#id_training-milestones")).to_have_value("0.625, 0.75")
    expect(page.locator("#id_training-seed")).to_have_value("17")
    expect(page.locator("[name=preset]:checked")).to_have_count(0)
    page.fill("#id_t0-weight", "500")  # changed by hand it is the recipe no more
    expect(page.locator("#recipe-chosen")).to_have_count(0)
    expect(page.locator("#formula")).to_have_text("L = CE + 500·AT↗5 ep")


def test_layers_are_proposed_with_their_shapes_and_edited_in_place(tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Method").select_option("at")
    pairs = page.locator(".layer-pairs")
    expect(pairs.locator("li")).to_have_count(3)
    expect(pairs.locator("li").nth(1)).to_have_text(re.compile(r"layer2\s+32×4×4\s+↔\s+block2\s+64×4×4"))
    page.get_by_role("button", name="Edit these").click()
    student = page.get_by_label("Student layers")
    expect(student).to_have_value("layer1, layer2, layer3")
    student.fill("layer1, layr2")
    expect(page.locator("#run-check .error")).to_contain_text("Did you mean layer2")
    student.fill("layer1, layer2")
    expect(page.locator("#run-check .error")).to_contain_text("2 layers of the student are named and 3")


def test_several_teachers_are_chosen_and_the_run_names_them(tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Teacher", exact=True).select_option(label="ResNet-56 · 98.10\u00a0% · – parameters")
    page.locator(".more-teachers > summary").click()
    page.get_by_role("checkbox", name="its twin").check()
    page.get_by_label("Mixed by").select_option("entropy")
    expect(page.locator("#run-check")).to_contain_text("resnet8 ← ResNet-56 + its twin · kd")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#run-summary .subtitle")).to_contain_text("ResNet-56 + its twin → resnet8")


def test_on_a_phone_nothing_scrolls_sideways(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 390, "height": 844})
    use(tab, "our pair")
    for summary in tab.page.locator("summary:visible").all():
        summary.click()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
