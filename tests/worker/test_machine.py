"""What a worker says of its machine. The GPUs' driver is a library that answers as NVIDIA's does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from worker import machine

DRIVER = Path(__file__).with_name("nvml.c")
H100 = {
    "name": "NVIDIA H100", "utilisation": 37.0, "memory_used": 1 << 30, "memory_total": 80 << 30,
    "temperature": 61, "power": 312.5,
}  # fmt: skip
A100 = {
    "name": "NVIDIA A100", "utilisation": None, "memory_used": 2 << 30, "memory_total": 80 << 30,
    "temperature": None, "power": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_kept", machine.Kept())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("cc is not there: install a C compiler (Debian: apt install gcc)")
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", DRIVER], check=True)
    return folder


@pytest.fixture
def driver(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))


def test_the_machine_is_told_in_bytes_and_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = machine.usage(tmp_path)
    assert said["memory_total"] == psutil.virtual_memory().total
    assert 0 < said["memory_used"] < said["memory_total"]
    assert said["disk_free"] > 0
    assert said["cores"] >= 1
    assert said["gpus"] == []


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [H100, A100]),
        ("1, 0", [A100, H100]),
        ("GPU-bbbb3333-44,GPU-aaaa", [A100, H100]),
        ("MIG-5c66", [A100]),
        ("0,7,1", [H100]),  # as CUDA reads it: nothing counts after one that is not there
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_those_the_worker_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[dict[str, object]]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.usage(tmp_path)["gpus"] == expected


@pytest.mark.parametrize("script", ["import time; time.sleep(60)", "exit(9)", "print('rubbish')"])
def test_a_driver_that_hangs_or_fails_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(machine, "GPU_COMMAND", [sys.executable, "-c", script])
    monkeypatch.setattr(machine, "GPU_PATIENCE", 0.5)
    assert machine.usage(tmp_path)["gpus"] == []
    asked_again = machine._kept.gpus_until - time.monotonic()
    assert asked_again > machine.GPU_REST / 2


def test_a_data_folder_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.usage(tmp_path / "gone")["disk_free"] is None


def test_the_engine_s_memory_is_that_of_the_processes_that_compute() -> None:
    assert machine.engine_memory() == 0
    code = "import sys; sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code, "worker.distill"], stdin=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while machine.engine_memory() == 0:  # between fork and exec it is still a copy of us
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert 0 < machine.memory_of(child.pid) <= psutil.Process(child.pid).memory_info().rss * 1.5
        assert machine.engine_memory() <= psutil.Process(child.pid).memory_info().rss * 1.5
    finally:
        child.kill()
        other.kill()
        child.communicate()
        other.communicate()
    assert machine.memory_of(child.pid) is None
