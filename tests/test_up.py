"""`manage.py up` for real: Redis, Celery workers, the web; started, hurt, and stopped without remains."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import Stack, eventually, free_port, gone, manage

pytestmark = pytest.mark.server


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "home")
    try:
        yield stack
    finally:
        stack.process.kill()
        stack.process.wait()


def test_up_serves_survives_harm_and_stops_on_ctrl_c(stack: Stack) -> None:
    stack.wait_for(f"kdweb is ready: http://localhost:{stack.port}")
    stack.wait_for("Ctrl-C")
    said = "".join(stack.seen)
    assert re.search(r"user admin, password \S{16}", said)
    assert stack.get("/healthz") == 200
    assert stack.get("/") == 302

    # A second one is refused and told who is first.
    second = manage(stack.home, free_port(), "up")
    assert second.returncode == 1
    assert f"process {stack.process.pid}, http://localhost:{stack.port}" in second.stderr

    # The doctor sees it all, and finds nothing wrong.
    doctor = manage(stack.home, stack.port, "doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert f"answers at http://localhost:{stack.port}" in doctor.stdout
    assert "✓ workers" in doctor.stdout
    assert re.search(r"✓ redis .* answers", doctor.stdout)

    # What dies comes back.
    for words in ("redis-server", "kdweb.asgi"):
        stack.named(words).kill()
    stack.wait_for("redis ended (killed by SIGKILL) and is started again", 20)
    stack.wait_for("web ended (killed by SIGKILL) and is started again", 20)
    eventually(lambda: answers(stack))

    # Ctrl-C ends every process within ten seconds.
    family = stack.family()
    assert len(family) >= 7  # redis, web, two Celery mains with their pools
    asked = time.monotonic()
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(timeout=15) == 0
    assert gone(family, 1) == []
    assert time.monotonic() - asked < 10
    assert not list(stack.home.glob("run/children.json"))

    # The next start makes no second administrator, and loses nothing.
    again = Stack(stack.home)
    try:
        again.wait_for("Ctrl-C")
        assert "password" not in "".join(again.seen)
    finally:
        again.process.terminate()
        again.process.wait(timeout=15)


def answers(stack: Stack) -> bool:
    try:
        return stack.get("/healthz") == 200
    except OSError:
        return False


def test_kill_9_leaves_nothing_behind(stack: Stack) -> None:
    stack.wait_for("Ctrl-C")
    family = stack.family()
    stack.process.kill()
    stack.process.wait()
    assert gone(family, 10) == []


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = manage(tmp_path, port, "up")
    assert done.returncode == 1
    assert f"Port {port} cannot be used" in done.stderr
    assert "KDWEB_PORT" in done.stderr


def test_a_redis_that_does_not_answer_is_named(tmp_path: Path) -> None:
    done = manage(tmp_path, free_port(), "up", KDWEB_REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "KDWEB_REDIS_URL does not answer" in done.stderr


def test_a_redis_of_the_environment_is_used(tmp_path: Path, redis_url: str) -> None:
    done = manage(tmp_path, free_port(), "doctor", KDWEB_REDIS_URL=redis_url)
    assert "the one of KDWEB_REDIS_URL answers" in done.stdout


def test_prepare_takes_the_given_password_once(tmp_path: Path) -> None:
    weak = manage(tmp_path, 0, "prepare", KDWEB_ADMIN_PASSWORD="admin")
    assert weak.returncode == 1
    assert "KDWEB_ADMIN_PASSWORD cannot be used" in weak.stderr
    first = manage(tmp_path, 0, "prepare", KDWEB_ADMIN_PASSWORD="a long enough one")
    assert "first user: admin" in first.stdout
    assert "first user" not in manage(tmp_path, 0, "prepare").stdout
    code = "from django.contrib.auth import authenticate as a; print(a(username='admin', password='{}'))"
    assert "admin" in manage(tmp_path, 0, "shell", "-c", code.format("a long enough one")).stdout
    assert "admin" not in manage(tmp_path, 0, "shell", "-c", code.format("another one")).stdout


def test_the_doctor_names_what_is_wrong(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = manage(tmp_path, free_port(), "doctor", KDWEB_DATABASE_URL="postgres://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "✗ database" in done.stdout
    assert "Check KDWEB_DATABASE_URL" in done.stdout
    assert f"chmod 700 {tmp_path}" in done.stdout
    assert "! web" in done.stdout


TRAIN = """
import time
from django.contrib.auth import get_user_model
from experiments.models import Run
from experiments.scenario import Scenario
owner = get_user_model().objects.get(username="admin")
scenario = Scenario("Long", "long", "", owner, print)
digits = scenario.dataset("Digits", "digits")
plan = {"purpose": "control", "architecture": "resnet8", "training": {"epochs": 5000, "batch_size": 64}}
run = scenario.ask(name="long", dataset=digits.pk, **plan)[0]
while Run.objects.get(pk=run.pk).step < 30:
    time.sleep(0.2)
"""
LOOK = """
from experiments.models import Run
run = Run.objects.get()
print(run.status, run.step, run.series.get(name="loss/total").count, run.artifacts.first().step)
"""


def test_ctrl_c_hands_a_training_back_with_a_checkpoint_of_its_last_step(stack: Stack) -> None:
    stack.wait_for("Ctrl-C")
    trained = manage(stack.home, stack.port, "shell", "-v0", "-c", TRAIN)
    assert trained.returncode == 0, trained.stderr
    family = stack.family()
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(timeout=30) == 0
    assert gone(family, 1) == []
    status, *steps = manage(stack.home, stack.port, "shell", "-v0", "-c", LOOK).stdout.split()
    assert status == "queued"
    assert len(set(steps)) == 1, steps
