"""The environment decides, and says so when it is wrong."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.test import Client

from kdweb import paths

ROOT = Path(__file__).resolve().parent.parent
SHOW = """
import json, sys
from kdweb import settings
print(json.dumps([getattr(settings, name) for name in sys.argv[1:]], default=str))
"""


def python(home: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KDWEB_", "DJANGO_"))}
    env = clean | {"KDWEB_HOME": str(home), "DJANGO_SETTINGS_MODULE": "kdweb.settings"} | env
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )


def load(home: Path, *names: str, **env: str) -> Any:
    """The settings as another process sees them."""
    done = python(home, "-c", SHOW, *names, **env)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


class TestSecrets:
    def test_the_key_is_made_once_and_is_private(self, tmp_path: Path) -> None:
        first = load(tmp_path, "SECRET_KEY")
        assert load(tmp_path, "SECRET_KEY") == first
        assert len(first[0]) >= 50
        assert stat.S_IMODE((tmp_path / "secret-key").stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.glob(".secret-key*")] == []

    def test_an_emptied_key_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secret-key").write_text("")
        with pytest.raises(RuntimeError, match="no usable key"):
            paths.secret_key(tmp_path)

    def test_a_secret_may_come_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("k" * 60 + "\n")
        assert load(tmp_path, "SECRET_KEY", KDWEB_SECRET_KEY_FILE=str(tmp_path / "key")) == ["k" * 60]

    def test_a_missing_secret_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="KDWEB_SECRET_KEY_FILE = '/nowhere' cannot be read"):
            load(tmp_path, "SECRET_KEY", KDWEB_SECRET_KEY_FILE="/nowhere")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("KDWEB_HTTPS", "yes", "KDWEB_HTTPS = 'yes': must be 0 or 1"),
        ("KDWEB_PORT", "http", "KDWEB_PORT = 'http': must be a whole number"),
        ("KDWEB_PROCESS", "both", "KDWEB_PROCESS = 'both'"),
        ("KDWEB_DATABASE_URL", "mysql://u@h/d", "must start with sqlite:/// or postgres://"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, name: str, value: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        load(tmp_path, "SECRET_KEY", **{name: value})


class TestDatabase:
    def test_sqlite_runs_in_wal_with_immediate_transactions(self, tmp_path: Path) -> None:
        code = """
import django; django.setup()
from django.db import connection
with connection.cursor() as c:
    print(*[c.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous", "busy_timeout")])
print(connection.transaction_mode, connection.settings_dict["CONN_MAX_AGE"])
"""
        assert python(tmp_path, "-c", code).stdout.split() == ["wal", "1", "20000", "IMMEDIATE", "0"]
        assert (tmp_path / "kdweb.sqlite3").exists()

    def test_postgres_by_url(self, tmp_path: Path) -> None:
        found = load(tmp_path, "DATABASES", KDWEB_DATABASE_URL="postgres://kd:pw@db:5433/kdweb")[0]["default"]
        assert found["ENGINE"] == "django.db.backends.postgresql"
        assert (found["HOST"], found["PORT"], found["NAME"], found["PASSWORD"]) == ("db", 5433, "kdweb", "pw")
        assert found["CONN_MAX_AGE"] == 0
        assert "init_command" not in found.get("OPTIONS", {})


class TestBroker:
    def test_one_url_for_redis_and_celery(self, tmp_path: Path) -> None:
        names = ("KDWEB_REDIS_URL", "CELERY_BROKER_URL")
        socket = f"{tmp_path}/run/redis.sock"
        assert load(tmp_path, *names) == [f"unix://{socket}", f"redis+socket://{socket}"]
        url = "redis://:pw@redis:6379/0"
        assert load(tmp_path, *names, KDWEB_REDIS_URL=url) == [url, url]

    def test_a_long_home_gets_a_short_socket(self, tmp_path: Path) -> None:
        home = tmp_path / ("x" * 120)
        folder = paths.make_private(paths.runtime_dir(home))
        try:
            assert len(str(folder / "redis.sock")) <= paths.SOCKET_LIMIT
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert folder != paths.runtime_dir(tmp_path / ("y" * 120))
        finally:
            folder.rmdir()

    def test_a_runtime_folder_that_is_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(RuntimeError, match="belongs to another user"):
            paths.make_private(tmp_path / "link")

    def test_the_web_fails_fast_where_a_worker_waits(self, tmp_path: Path) -> None:
        names = ("CELERY_BROKER_CONNECTION_MAX_RETRIES", "CELERY_BROKER_TRANSPORT_OPTIONS")
        assert "max_retries" not in load(tmp_path, *names, KDWEB_PROCESS="worker")[1]
        assert load(tmp_path, *names, KDWEB_PROCESS="web")[1]["max_retries"] == 1
        assert load(tmp_path, *names)[0] is None

    @pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1/0"])
    def test_sending_without_a_broker_fails_soon(self, tmp_path: Path, url: str) -> None:
        code = """
import time
from kdweb.celery import app
app.set_default()
start = time.monotonic()
try:
    app.send_task("worker.tasks.sweep")
except Exception as error:
    print(type(error).__name__, time.monotonic() - start < 10)
"""
        done = python(tmp_path, "-c", code, KDWEB_REDIS_URL=url, KDWEB_PROCESS="web")
        assert done.stdout.split() == ["OperationalError", "True"], done.stderr


class TestWeb:
    def test_healthz_answers_to_anybody_with_a_strict_policy(self, client: Client) -> None:
        answer = client.get("/healthz")
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy

    def test_the_admin_is_behind_the_login(self, client: Client) -> None:
        answer = client.get("/admin/")
        assert answer.status_code == 302
        assert "login" in answer.headers["Location"]

    def test_debug_is_off(self, tmp_path: Path) -> None:
        assert load(tmp_path, "DEBUG", "PASSWORD_HASHERS")[0] is False
        assert "Argon2" in load(tmp_path, "PASSWORD_HASHERS")[0][0]

    def test_production_passes_the_deployment_check(self, tmp_path: Path) -> None:
        done = python(tmp_path, "manage.py", "check", "--deploy", "--fail-level", "WARNING", KDWEB_HTTPS="1")
        assert done.returncode == 0, done.stderr
        assert "no issues" in done.stdout

    def test_only_the_bundle_of_plotly_is_served(self) -> None:
        assert str(finders.find("plotly/plotly.min.js")).endswith("plotly/package_data/plotly.min.js")
        assert not finders.find("plotly/widgetbundle.js")
        assert finders.find("plotly/plotly.min.js", find_all=True)

    def test_static_files_are_collected_hashed_and_compressed(self, tmp_path: Path) -> None:
        done = python(tmp_path, "manage.py", "collectstatic", "--noinput", "-v", "0")
        assert done.returncode == 0, done.stderr
        names = json.loads((tmp_path / "static" / "staticfiles.json").read_text())["paths"]
        bundle = tmp_path / "static" / names["plotly/plotly.min.js"]
        assert bundle.with_suffix(".js.gz").stat().st_size < bundle.stat().st_size / 3
        assert [name for name in names if name.startswith("plotly/")] == ["plotly/plotly.min.js"]
        assert all(not name.startswith("http") for name in names.values())


def test_the_tests_use_a_home_of_their_own() -> None:
    assert settings.KDWEB_HOME != paths.CHECKOUT / ".kdweb"
    assert "kdweb-test-" in str(settings.KDWEB_HOME)
