"""The runs table in a browser: completion, groups, columns, saved views, archive and undo, keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.site import PASSWORD, Site, running
from tests.browser.visitor import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
ROWS = f"""
import sys
sys.path.insert(0, "benchmarks")
import _many
from django.contrib.auth.models import User
_many.fill(260)
user = User.objects.get(username="many")
user.set_password({PASSWORD!r})
user.save()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory, ROWS) as site:
        yield site


@pytest.fixture
def visitor(browser: Browser, site: Site) -> Iterator[Visitor]:
    visitor = Visitor(browser, site.url)
    visitor.log_in("many", PASSWORD)
    visitor.page.wait_for_url(site.url + "/")
    yield visitor
    assert visitor.complaints == []
    visitor.context.close()


def rows(page: Page) -> list[str]:
    return page.locator("#runs tr[data-run] td.name a").all_inner_texts()


def test_the_line_completes_what_is_typed(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/runs/")
    line, choices = page.get_by_role("combobox", name="Filter runs"), page.get_by_role("option")
    page.keyboard.press("/")
    expect(line).to_be_focused()
    page.keyboard.type("stat")
    expect(choices.first).to_contain_text("status")
    expect(line).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    expect(choices.first).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(line).to_have_value("status:")
    expect(choices.filter(has_text="failed")).to_be_visible()
    page.keyboard.type("fai")
    expect(choices).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    expect(line).to_have_value("status:failed ")
    page.wait_for_url("**/runs/?q=status%3Afailed*")
    expect(page.locator("#runs tbody [data-status=succeeded]")).to_have_count(0)
    page.keyboard.type("acc>lots")
    page.keyboard.press("Enter")
    expect(page.locator("#q-error mark")).to_have_text("lots")
    page.go_back()
    expect(line).to_have_value("status:failed")


def test_columns_are_chosen_and_put_in_order(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/runs/?q=purpose:distil")
    page.get_by_role("button", name="Columns and groups").click()
    dialog = page.locator("#columns")
    dialog.get_by_label("Find a column").fill("val/top1")
    dialog.get_by_label("val/top1 best").check()
    dialog.get_by_label("Find a column").fill("learning")
    dialog.get_by_label("Learning rate").first.check()
    last = dialog.locator("[data-chosen] > li").last
    expect(last).to_contain_text("Learning rate")
    last.get_by_role("button", name="Further left").click()
    dialog.get_by_role("button", name="Show").click()
    heads = page.locator("#runs thead th")
    expect(heads.nth(-2)).to_have_text("Learning rate")
    expect(heads.last).to_have_text("val/top1 best")
    assert "learning_rate,val/top1.best" in page.url.replace("%2C", ",").replace("%2F", "/")
    heads.last.get_by_role("link").click()
    expect(heads.last).to_have_attribute("aria-sort", "descending")
    page.reload()
    expect(heads.last).to_have_text("val/top1 best")


def test_runs_are_grouped_by_settings_and_a_group_opens(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/runs/?q=purpose:distil status:succeeded")
    page.get_by_role("button", name="Columns and groups").click()
    page.get_by_label("Group by").select_option("settings")
    page.get_by_role("button", name="Show").click()
    groups = page.locator("#runs tr.of-group")
    expect(groups.first).to_contain_text("±")
    expect(page.locator("#runs tr[data-run]")).to_have_count(0)
    groups.first.get_by_role("link").click()
    expect(groups.first.get_by_role("link")).to_have_attribute("aria-expanded", "true")
    seeds = page.locator("#runs tr[data-run]")
    expect(seeds.first).to_contain_text("seed")
    assert seeds.count() == int(groups.first.locator("td.num").first.inner_text())
    assert "open=" in page.url
    page.get_by_role("link", name="Ungroup").click()
    expect(groups).to_have_count(0)


def test_a_view_is_saved_found_and_deleted(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/runs/?q=method:kd&sort=-acc&columns=name,acc")
    page.locator("summary", has_text="Views").click()
    page.get_by_role("button", name="Save this view").click()
    page.locator("#save-name").fill("Plain KD")
    page.locator("#save-view").get_by_role("button", name="Save", exact=True).click()
    visitor.heading("Plain KD")
    visitor.open("/runs/")
    page.locator("summary", has_text="Views").click()
    page.get_by_role("link", name="Plain KD").click()
    visitor.heading("Plain KD")
    expect(page.locator("#runs thead th")).to_have_count(3)
    page.locator("summary", has_text="Plain KD").click()
    page.get_by_role("button", name="Delete this view").click()
    page.locator("#confirm [data-confirm-yes]").click()
    visitor.heading("Runs")


def test_many_runs_are_archived_and_brought_back(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/runs/?q=status:succeeded&sort=name")
    before = rows(page)
    page.get_by_label(f"Select {before[0]}", exact=True).check()
    page.get_by_label(f"Select {before[3]}", exact=True).click(modifiers=["Shift"])
    expect(page.locator("[data-picked-text]")).to_have_text("4 selected")
    page.locator("[data-bulkbar]").get_by_role("button", name="Archive").click()
    expect(page.locator("#runs tr[data-run] td.name a").first).to_have_text(before[4])
    page.locator(".toast").get_by_role("button", name="Undo").click()
    expect(page.locator("#runs tr[data-run] td.name a").first).to_have_text(before[0])
    assert rows(page) == before


def test_all_that_match_are_chosen_and_tagged(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/runs/?q=status:succeeded purpose:distil")
    found = int(page.locator("#runs").get_attribute("data-found") or "0")
    assert found > 50
    page.locator("#pick-all").check()
    page.get_by_role("button", name=f"Select all {found} that match").click()
    expect(page.locator("[data-picked-text]")).to_have_text(f"{found} selected")
    page.locator("[data-bulkbar] summary", has_text="Tag").click()
    page.get_by_label("Tag", exact=True).fill("round-2")
    page.get_by_role("button", name="Put on").click()
    expect(page.locator(".toast")).to_contain_text(str(found))
    visitor.open("/runs/?q=tag:round-2")
    expect(page.locator("#runs")).to_have_attribute("data-found", str(found))
    star = page.locator("#runs .star").first
    star.click()
    expect(page.locator("#runs .star").first).to_have_attribute("aria-pressed", "true")
    visitor.open("/runs/?q=is:starred tag:round-2")
    expect(page.locator("#runs tr[data-run] .star[aria-pressed=true]").first).to_be_visible()
