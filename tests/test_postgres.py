"""The application's tests once more, on PostgreSQL: what SQLite forgives, it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.server
@pytest.mark.timeout(600)
def test_the_applications_tests_pass_on_postgresql(postgres_url: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env = clean | {"KDWEB_DATABASE_URL": postgres_url}

    def python(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *argv], cwd=ROOT, env=env, capture_output=True, text=True)

    engine = python(
        "-c", "from tests.settings import DATABASES; print(DATABASES['default']['ENGINE'])"
    ).stdout
    assert engine.strip() == "django.db.backends.postgresql"
    chosen = ("-m", "not server and not browser", "tests/experiments")
    done = python("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *chosen)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
