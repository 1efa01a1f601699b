"""How numbers, times and states are written."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from experiments.models import ArchitectureProfile, Attempt, Run, Upload
from experiments.templatetags import kd


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u202f", " ")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0.93412, "0.9341"),
        (0.0123456, "0.01235"),
        (123.456, "123.5"),
        (123456.7, "123457"),
        (0.0000012, "1.200e−6"),
        (-2.5, "−2.500"),
        (10000, "10 000"),
        (0.0, "0"),
        (math.nan, "NaN"),
        (-math.inf, "−∞"),
        (None, "–"),
        ("", "–"),
    ],
)
def test_numbers_have_four_significant_digits(given: object, shown: str) -> None:
    assert plain(kd.sig(given)) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1_234_567, "1.23 M"),
        (999_999, "1.00 M"),
        (2.5e9, "2.50 B"),
    ],
)
def test_counts_take_the_largest_unit_that_fits(given: float, shown: str) -> None:
    assert plain(kd.count(given)) == shown


def test_units() -> None:
    assert plain(kd.filesize(512)) == "512 B"
    assert plain(kd.filesize(4_950_000)) == "4.95 MB"
    assert plain(kd.flops(82_400_000)) == "82.4 MFLOPs"
    assert kd.ratio(6.0312) == "6.03×"
    assert plain(kd.milliseconds(0.8421)) == "0.842 ms"
    assert plain(kd.milliseconds(1200)) == "1.20 s"


def test_accuracies_align_and_differences_are_signed() -> None:
    assert plain(kd.pct(0.93412)) == "93.41 %"
    assert plain(kd.pct(1)) == "100.00 %"
    assert kd.points(0.0083) == "+0.83"
    assert kd.points(-0.0462) == "−4.62"
    assert kd.points(-0.00001) == "±0.00"
    assert 'class="delta num down"' in kd.delta(-0.0462)
    assert kd.delta(0.0) == "±0.00"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.82, "820 ms"),
        (45.23, "45.2 s"),
        (59.97, "1 min 00 s"),
        (185, "3 min 05 s"),
        (4320, "1 h 12 min"),
        (187_200, "2 d 4 h"),
        (timedelta(minutes=3), "3 min 00 s"),
        (None, "–"),
    ],
)
def test_durations_show_their_two_largest_units(seconds: object, shown: str) -> None:
    assert plain(kd.duration(seconds)) == shown


def test_times_are_relative_and_carry_the_exact_moment() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    ages = {10: "just now", 180: "3 min ago", 7200: "2 h ago", 86400: "1 day ago", 86400 * 40: "2026-03-22"}
    for seconds, shown in ages.items():
        assert plain(kd.relative(now - timedelta(seconds=seconds), now)) == shown
    assert plain(kd.relative(now + timedelta(seconds=120), now)) == "in 2 min"
    assert 'datetime="2026-05-01T12:00:00+00:00"' in kd.ago(now)


def test_every_state_has_a_name_a_shape_and_a_place_in_the_sprite() -> None:
    sprite = (Path(kd.__file__).parents[1] / "static/img/icons.svg").read_text(encoding="utf-8")
    symbols = set(re.findall(r'<symbol id="([a-z-]+)"', sprite))
    states = {
        *Run.Status.values,
        *ArchitectureProfile.Status.values,
        *Upload.Status.values,
        *Attempt.Outcome.values,
        *("lost", "pausing", "stopping", "at work"),
        *("online", "offline", "draining", "drained", "in trouble"),
        *("fine", "warning", "broken"),
    }
    assert states <= set(kd.STATUSES)
    assert {kd.STATUS_LIKE.get(state, state) for state in states} <= symbols
    assert {page.icon for page in kd.PAGES} <= symbols


def test_places_in_a_row_are_ordinals() -> None:
    assert [kd.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th",
    ]  # fmt: skip


def test_what_was_asked_of_a_run_comes_before_what_it_still_does() -> None:
    assert kd.run_state(Run(status="running", asked="pause")) == "pausing"
    assert kd.run_state(Run(status="preparing", asked="stop")) == "stopping"
    assert kd.run_state(Run(status="running")) == "running"
    assert kd.run_state(Run(status="queued", asked="stop")) == "queued"
    assert kd.run_state(Run(status="running", asked="stop", silent_since=datetime.now(UTC))) == "lost"


def test_a_section_is_current_on_its_inner_pages_but_not_beside_an_entry_of_its_own() -> None:
    current = {name: kd.current_page(name) for name in ("run_detail", "run_new", "teacher_upload", "login")}
    names = {name: page.url_name if page else None for name, page in current.items()}
    assert names == {
        "run_detail": "run_list",
        "run_new": "run_new",
        "teacher_upload": "teacher_list",
        "login": None,
    }
