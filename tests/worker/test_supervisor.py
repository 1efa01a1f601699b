"""The supervisor against small children that speak the engine's protocol, well and badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from worker.distill.events import Event, Log, Metrics, Result, Stopped
from worker.supervisor import ROOT, Engine, Spare, environment

CHILD = """
import json, os, signal, subprocess, sys, time
def say(**event): print(json.dumps(event), flush=True)
asked = json.loads(sys.stdin.readline())["spec"]
"""


@pytest.fixture
def child() -> Iterator[Callable[..., Engine]]:
    """Makes an engine of a few lines of Python, started with a spec."""
    made: list[Engine] = []

    def make(code: str, **spec: object) -> Engine:
        engine = Engine([sys.executable, "-c", CHILD + textwrap.dedent(code)])
        made.append(engine)
        assert engine.start("train", spec)
        return engine

    yield make
    for engine in made:
        engine.close()


def listen(engine: Engine, seconds: float = 20.0) -> list[Event]:
    found: list[Event] = []
    end = time.monotonic() + seconds
    while not engine.done:
        assert time.monotonic() < end, f"still running after {seconds} s; it said {found}"
        found += engine.read(0.05)
    return found


def dead(pid: int, within: float = 5.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_events_come_in_order_and_the_result_last(child):
    engine = child(
        """
        say(type="metrics", steps=[1, 2], wall=[0, 0], values={"lr": [asked["lr"], None]})
        say(type="result", data={"answer": 42})
        """,
        lr=0.5,
    )
    metrics, result = listen(engine)
    assert isinstance(metrics, Metrics)
    assert metrics.values == {"lr": [0.5, None]}
    assert engine.ending == result == Result(data={"answer": 42})


def test_stderr_and_stray_prints_become_log_lines(child):
    engine = child('print("stray"); sys.stdout.flush(); print("a warning", file=sys.stderr)')
    texts = {event.text for event in listen(engine) if isinstance(event, Log)}
    assert texts == {"stray", "a warning"}


def test_a_line_larger_than_the_pipe_arrives_whole(child):
    engine = child('say(type="result", data={"layers": ["x" * 100] * 20_000})')
    (result,) = listen(engine)
    assert len(result.data["layers"]) == 20_000


def test_an_event_without_a_line_end_still_counts(child):
    engine = child("""sys.stdout.write('{"type": "stopped", "step": 3}'); sys.stdout.flush()""")
    assert listen(engine) == [Stopped(step=3)]


def test_stop_is_a_request_the_child_may_answer(child):
    engine = child(
        """
        def stop(*_):
            say(type="stopped", step=7); sys.exit(4)
        signal.signal(signal.SIGTERM, stop); say(type="phase", name="training"); time.sleep(60)
        """
    )
    while not engine.read():
        pass
    engine.stop(grace=20)
    assert listen(engine)[-1] == Stopped(step=7)
    assert engine.process.returncode == 4


def test_a_child_that_will_not_stop_is_killed_after_the_grace(child):
    engine = child(
        'signal.signal(signal.SIGTERM, signal.SIG_IGN); say(type="phase", name="deaf"); time.sleep(60)'
    )
    while not engine.read():
        pass
    engine.stop(grace=0.2)
    listen(engine)
    assert "did not stop in time" in engine.reason()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "out of memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("sys.exit('no such thing')", "no such thing"),
        ("sys.exit(0)", "without a result"),
        ("os._exit(5)", "code 5"),
    ],
)
def test_a_silent_end_has_a_reason_in_words(child, code, words):
    engine = child(code)
    listen(engine)
    assert engine.ending is None
    assert words in engine.reason()


def until(engine: Engine, text: str, seconds: float = 20.0) -> list[Event]:
    """What is said until a line has the text."""
    found: list[Event] = []
    end = time.monotonic() + seconds
    while not any(text in event.model_dump_json() for event in found):
        assert time.monotonic() < end, f"no {text!r} in {found}"
        found += engine.read(0.05)
    return found


def lines(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Log))


def listens(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for a signal."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_the_engine_says_where_it_hangs_and_is_ended_with_a_reason(tmp_path):
    """The engine itself, opening a spec that nobody will ever write."""
    os.mkfifo(tmp_path / "spec.json")
    engine = Engine([sys.executable, "-m", "worker.distill", "train", str(tmp_path / "spec.json")])
    try:
        end = time.monotonic() + 20
        while not listens(engine.process.pid, signal.SIGUSR1):
            assert time.monotonic() < end
            time.sleep(0.05)
        said: list[Event] = []
        while "read_spec" not in lines(said):  # it may not be there yet, and then shows where it is
            assert time.monotonic() < end, lines(said)
            said = engine.dump()
        assert "most recent call first" in lines(said)
        assert engine.alive
        before = engine.heard
        engine.dump()
        assert engine.heard == before  # the answer is no sign of life
        engine.kill("no sign of life for 10 minutes")
        assert engine.reason() == "The training process was ended: no sign of life for 10 minutes."
    finally:
        engine.close()


def test_the_stacks_of_its_helpers_are_told_too(child):
    """A run over several processes may hang in one that is not the leader."""
    engine = child(
        """
        code = "from worker.distill.__main__ import leave_traces; leave_traces(); import time\\n"
        code += "def helper_waits():\\n    print('ready', flush=True); time.sleep(60)\\nhelper_waits()"
        from worker.distill.__main__ import leave_traces
        leave_traces()
        def leader_waits(): subprocess.run([sys.executable, "-c", code])
        leader_waits()
        """
    )
    until(engine, "ready")
    said = lines(engine.dump())
    assert "in leader_waits" in said
    assert "in helper_waits" in said


def test_a_stopped_child_says_nothing_and_is_killed_all_the_same(child):
    engine = child(
        """
        from worker.distill.__main__ import leave_traces
        leave_traces(); say(type="alive"); time.sleep(60)
        """
    )
    until(engine, "alive")
    engine.process.send_signal(signal.SIGSTOP)
    assert engine.dump(0.5) == []
    engine.kill("no sign of life for 10 minutes")
    assert engine.process.returncode == -signal.SIGKILL
    assert engine.dump() == []


def test_what_it_says_while_it_is_asked_is_not_lost(child):
    engine = child(
        """
        signal.signal(signal.SIGUSR1, lambda *_: say(type="result", data={"late": 1}))
        say(type="alive"); time.sleep(60)
        """
    )
    until(engine, "alive")
    assert engine.dump() == [Result(data={"late": 1})] == [engine.ending]


def test_bytes_without_a_line_are_heard_and_silence_is_not(child):
    engine = child(
        """
        for _ in range(3):
            sys.stderr.write("\\r50%"); sys.stderr.flush(); time.sleep(0.3)
        say(type="alive"); time.sleep(60)
        """
    )
    started = engine.heard
    while engine.heard == started:  # of a progress bar that ends no line
        assert engine.read(0.05) == []
    until(engine, "alive")
    last = engine.heard
    engine.read(0.3)
    assert engine.heard == last


CRASHES = {
    "SIGSEGV": ("ctypes.string_at(0)", "Segmentation fault at File"),
    "SIGABRT": ("os.abort()", "Aborted at File"),
    "SIGBUS": (
        # A file that is cut short while it is mapped: what a data set on a disk that went away does.
        """
        file = tempfile.TemporaryFile(); file.truncate(4096)
        mapped = mmap.mmap(file.fileno(), 4096); file.truncate(0); mapped[0]
        """,
        "a file that it was reading was cut short",
    ),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_in_native_code_leaves_its_python_stack(child, name):
    code, words = CRASHES[name]
    start = """
        import ctypes, mmap, tempfile, threading
        from worker.distill.__main__ import leave_traces
        leave_traces(); threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """
    engine = child(textwrap.dedent(start) + textwrap.dedent(code))
    console = lines(listen(engine))
    assert engine.process.returncode == -signal.Signals[name]
    assert "Fatal Python error" in console
    assert 'File "<string>"' in console
    assert words in engine.reason()
    assert "sleep" not in engine.reason()  # of the thread that did not crash
    assert "Extension modules" not in engine.reason()


def test_what_the_child_started_dies_with_it(child):
    engine = child(
        """
        grandchild = subprocess.Popen(["sleep", "60"])
        say(type="result", data={"pid": grandchild.pid})
        """
    )
    (result,) = listen(engine)
    engine.close()
    assert dead(result.data["pid"])


def test_the_child_gets_no_secrets_and_the_allocator_settings(child, monkeypatch):
    monkeypatch.setenv("KDWEB_SECRET_KEY", "very secret")
    monkeypatch.setenv("DATABASE_PASSWORD", "very secret")
    engine = child('say(type="result", data=dict(os.environ))')
    (result,) = listen(engine)
    assert "very secret" not in result.data.values()
    assert result.data["MALLOC_TOP_PAD_"] == "268435456"
    assert result.data["PATH"] == os.environ["PATH"]


def test_what_is_set_in_the_environment_wins(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment()["OMP_NUM_THREADS"] == "3"


def test_ignored_signals_are_not_inherited(child):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        engine = child('say(type="phase", name="up"); time.sleep(60)')
    finally:
        signal.signal(signal.SIGTERM, before)
    while not engine.read():
        pass
    engine.stop(grace=20)
    listen(engine)
    assert engine.process.returncode == -signal.SIGTERM


def test_a_child_that_opens_a_strangers_file_is_bounded(child):
    engine = Engine(
        [sys.executable, "-c", CHILD + "say(type='phase', name='on')\nwhile True: pass"],
    )
    try:
        engine.limit(cpu_seconds=1, file_bytes=1000)
        engine.start("train", {})
        listen(engine)
        assert "processor time" in engine.reason()
    finally:
        engine.close()


def test_nothing_is_left_when_the_worker_is_killed():
    worker = """
import sys, time
from worker.supervisor import Engine
engine = Engine([sys.executable, "-c", "import time; time.sleep(60)"])
print(engine.process.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert dead(pid)


def spare_of(code: str) -> Spare:
    return Spare(lambda: Engine([sys.executable, "-c", CHILD + code]))


def test_the_spare_is_taken_and_made_anew_when_asked():
    spare = spare_of('say(type="result", data=asked)')
    try:
        spare.refill()
        warm = spare.waiting
        engine = spare.take("train", {"n": 1})
        assert engine is warm
        assert spare.waiting is None
        assert listen(engine) == [Result(data={"n": 1})]
        spare.refill()
        assert spare.waiting is not None
        assert spare.waiting.process.pid != engine.process.pid
        engine.close()
    finally:
        spare.close()


def test_a_dead_spare_is_replaced():
    spare = spare_of('say(type="result", data=asked)')
    spare.refill()
    assert spare.waiting
    spare.waiting.process.kill()
    spare.waiting.process.wait()
    engine = spare.take("train", {"n": 2})
    try:
        assert listen(engine) == [Result(data={"n": 2})]
    finally:
        engine.close()
        spare.close()


def test_closing_the_spare_leaves_no_process():
    spare = spare_of("")
    spare.refill()
    assert spare.waiting
    pid = spare.waiting.process.pid
    spare.close()
    assert dead(pid)
