"""The supervisor, with real processes: small ones, so that each test takes a second or two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kdweb.supervise import Child, Service, StackError, end_leftovers, only_instance

ROOT = Path(__file__).resolve().parent.parent
PRELUDE = r'''
import sys, time
from pathlib import Path
from kdweb.supervise import Service, Supervisor

here = Path(sys.argv[1])

NOTE = r"""
import signal, sys, time
def say(word):
    with open(sys.argv[2], "a") as file:
        file.write(f"{sys.argv[1]} {word}\n")
"""

def service(name, code, ready=None, **more):
    ready = ready or (lambda: f"{name} up" in events())
    return Service(name, [sys.executable, "-c", NOTE + code, name, str(here / "events")], ready, **more)

def events():
    return (here / "events").read_text() if (here / "events").exists() else ""

WAIT = """
say("up")
while True: time.sleep(0.05)
"""
POLITE = """
def stop(*_):
    say("stop"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
""" + WAIT
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" + WAIT

def run(stages, on_ready=None):
    sys.exit(Supervisor(stages, here, here, lambda line: print(line, flush=True)).run(on_ready))
'''


def start(folder: Path, code: str) -> subprocess.Popen[str]:
    script = PRELUDE + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def events(folder: Path) -> list[str]:
    path = folder / "events"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_starts_in_order_and_stops_by_rank(tmp_path: Path) -> None:
    code = """
    slow = "time.sleep(0.5)" + POLITE
    run([[service("first", slow, stop_rank=2)],
         [service("second", POLITE, stop_rank=0), service("third", POLITE, stop_rank=1)]])
    """
    process = start(tmp_path, code)
    wait_for(lambda: len(events(tmp_path)) == 3)
    assert events(tmp_path)[0] == "first up"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=15)
    assert process.returncode == 0, out
    assert events(tmp_path)[3:] == ["second stop", "third stop", "first stop"]


def test_what_dies_is_started_again(tmp_path: Path) -> None:
    process = start(tmp_path, 'run([[service("one", POLITE)]])')
    wait_for(lambda: events(tmp_path) == ["one up"])
    time.sleep(0.5)
    children(process)[0].kill()
    wait_for(lambda: events(tmp_path) == ["one up"] * 2)
    process.terminate()
    out, _ = process.communicate(timeout=15)
    assert "one ended (killed by SIGKILL) and is started again" in out


def test_what_cannot_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    code = """
    run([[service("good", POLITE)], [service("bad", "sys.exit('no such queue')", ready=lambda: False)]])
    """
    process = start(tmp_path, code)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "bad ends as soon as it is started" in out
    assert "no such queue" in out
    assert events(tmp_path) == ["good up", "good stop"]


def test_what_never_gets_ready_is_told(tmp_path: Path) -> None:
    process = start(tmp_path, 'run([[service("idle", POLITE, ready=lambda: False, ready_within=1.0)]])')
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "idle is not ready after 1 s" in out


def test_who_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    process = start(tmp_path, 'run([[service("deaf", STUBBORN, grace=0.5)]])')
    wait_for(lambda: events(tmp_path) == ["deaf up"])
    deaf = children(process)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert 0.4 < time.monotonic() - asked < 5
    assert psutil.wait_procs(deaf, timeout=1)[1] == []


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    process = start(tmp_path, 'run([[service("deaf", STUBBORN, grace=60)]])')
    wait_for(lambda: events(tmp_path) == ["deaf up"])
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, 'run([[service("one", POLITE), service("two", POLITE)]])')
    wait_for(lambda: len(events(tmp_path)) == 2)
    left = children(process)
    process.kill()
    process.communicate(timeout=10)
    assert len(left) == 2
    assert psutil.wait_procs(left, timeout=5)[1] == []


def test_the_next_start_ends_what_a_killed_one_could_not(tmp_path: Path) -> None:
    process = start(tmp_path, 'run([[service("deaf", STUBBORN)]])')
    wait_for(lambda: events(tmp_path) == ["deaf up"] and (tmp_path / "children.json").exists())
    left = children(process)
    process.kill()
    process.communicate(timeout=10)
    assert left[0].is_running()
    end_leftovers(tmp_path / "children.json")
    assert psutil.wait_procs(left, timeout=1)[1] == []


def test_a_number_that_somebody_else_has_by_now_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], process_group=0)
    try:
        (tmp_path / "children.json").write_text(json.dumps([[other.pid, 1.0]]))
        end_leftovers(tmp_path / "children.json")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(("answer", "code"), [("3", 3), ("0", 0), ("1 / 0", 1)])
def test_the_code_of_on_ready_ends_the_stack(tmp_path: Path, answer: str, code: int) -> None:
    process = start(tmp_path, f'run([[service("one", POLITE)]], lambda: {answer})')
    out, _ = process.communicate(timeout=15)
    assert process.returncode == code
    assert ("ZeroDivisionError" in out) == (answer == "1 / 0")
    assert events(tmp_path) == ["one up", "one stop"]


def test_a_full_log_is_rotated_under_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdweb.supervise.LOG_BYTES", 1000)
    code = "import time\nfor i in range(10**6): print(i, 'x' * 90, flush=True); time.sleep(0.01)"
    child = Child(Service("chatty", [sys.executable, "-c", code], lambda: True), tmp_path / "chatty.log")
    child.spawn()
    try:
        wait_for(lambda: child.log.stat().st_size > 1000)
        child.rotate_log()
        assert child.log.with_suffix(".log.1").stat().st_size > 1000
        wait_for(lambda: 0 < child.log.stat().st_size < 1000)
        assert "xxx" in child.tail()
        assert "\0" not in child.log.read_text()
    finally:
        child.signal_group(signal.SIGKILL)
        assert child.process is not None
        child.process.wait()


def test_a_second_instance_is_told_who_is_first(tmp_path: Path) -> None:
    with only_instance(tmp_path, {"url": "http://localhost:8000"}):
        second = only_instance(tmp_path, {"url": "http://localhost:9000"})
        with pytest.raises(StackError, match=f"process {os.getpid()}, http://localhost:8000"), second:
            pytest.fail("two instances")
    with only_instance(tmp_path, {"url": "http://localhost:9000"}):
        pass  # free again
