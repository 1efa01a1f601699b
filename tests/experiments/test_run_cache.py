"""The teachers' cache: what the engine is given, and the one line that a run's page says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import runspec
from experiments.management.commands import doctor
from experiments.views.run import cache_line

from . import make

pytestmark = pytest.mark.django_db
USED: dict[str, Any] = {
    "reused": 10,
    "computed": 0,
    "rows": 450_000,
    "seconds_computing": 0.0,
    "seconds_saved": 41.2,
    "bytes": 9_000_000,
    "reason": "",
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "10 of 10 views reused, about 41.2\u00a0s of teacher time saved, 9.00\u00a0MB on disk."),
        (
            {"reused": 0, "computed": 1, "seconds_computing": 4.0, "seconds_saved": 0.0},
            "0 of 1 view reused, 4.00\u00a0s spent on computing the rest, 9.00\u00a0MB on disk.",
        ),
        ({"reason": "the disk is full."}, "9.00\u00a0MB on disk. The disk is full."),
        ({"rows": 0, "reason": "mixed images are new at every step"}, "not used. Mixed images are new"),
    ],
)
def test_the_line_says_what_was_saved_or_why_not(changed: dict[str, Any], said: str) -> None:
    line = cache_line(make.a_run(results={"cache": USED | changed}))
    assert line.startswith("Teacher cache: ")
    assert said in line


def test_a_run_that_has_not_ended_or_has_no_teacher_says_nothing() -> None:
    assert cache_line(make.a_run()) == ""
    assert cache_line(make.a_run(results={"cache": None})) == ""


def test_the_engine_is_given_the_folder_and_the_budget(settings: Any, tmp_path: Path) -> None:
    settings.KDWEB_TEACHER_CACHE, settings.KDWEB_TEACHER_CACHE_BYTES = tmp_path, 1000
    run = make.a_run(purpose="distil", teacher=make.a_teacher())
    cache = runspec.build(run).cache
    assert cache is not None
    assert (cache.folder, cache.budget) == (str(tmp_path), 1000)
    assert runspec.build(make.a_run()).cache is None  # nobody teaches
    settings.KDWEB_TEACHER_CACHE_BYTES = 0
    assert runspec.build(run).cache is None


def test_the_doctor_tells_its_size(settings: Any, tmp_path: Path) -> None:
    settings.KDWEB_TEACHER_CACHE, settings.KDWEB_TEACHER_CACHE_BYTES = tmp_path / "cache", 4 * 2**30
    assert "0.00 of 4.00 GiB" in next(doctor.teacher_cache()).found
    (tmp_path / "cache" / "key").mkdir(parents=True)
    with open(tmp_path / "cache" / "key" / "logits.bin", "wb") as file:
        file.truncate(2**30)  # sparse: it takes no room
    assert "1.00 of 4.00 GiB" in next(doctor.teacher_cache()).found
