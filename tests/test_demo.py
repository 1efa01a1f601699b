"""`manage.py demo --check` as a person's script runs it: everything real, from an empty folder."""

from __future__ import annotations

import pytest

from tests.running import free_port, manage

pytestmark = pytest.mark.server
SECONDS = 280


@pytest.mark.timeout(600)
def test_the_demo_checks_itself_and_a_second_start_finds_it_all(tmp_path) -> None:
    port = free_port()
    first = manage(tmp_path / "home", port, "demo", "--check", patience=SECONDS)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "✓ every run is there" in first.stdout
    assert first.stdout.count("succeeded  ") == 4, first.stdout
    second = manage(tmp_path / "home", port, "demo", "--check", patience=SECONDS)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "running" not in second.stdout, "nothing is trained again"
