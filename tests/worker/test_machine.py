"""What a worker says of its machine; `nvidia-smi` is a script that answers as the real one does."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from worker import machine


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_kept", machine.Kept())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def a_tool(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_machine_is_told_in_bytes_and_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    said = machine.usage(tmp_path)
    assert said["memory_total"] == psutil.virtual_memory().total
    assert 0 < said["memory_used"] < said["memory_total"]
    assert said["disk_free"] > 0
    assert said["cores"] >= 1
    assert said["gpus"] == []


def test_gpus_are_those_the_worker_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_tool(tmp_path, 'echo "$@" > "$(dirname "$0")/asked"; echo "NVIDIA H100, 37, 1024, 81559"', monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    (gpu,) = machine.usage(tmp_path)["gpus"]
    assert gpu == {
        "name": "NVIDIA H100", "utilisation": 37.0, "memory_used": 1 << 30, "memory_total": 81559 << 20,
    }  # fmt: skip
    assert (tmp_path / "asked").read_text().split()[-2:] == ["-i", "1"]


def test_what_the_driver_does_not_tell_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_tool(tmp_path, 'echo "NVIDIA A100 MIG, [N/A], [Not Supported], 40536"; echo rubbish', monkeypatch)
    (gpu,) = machine.usage(tmp_path)["gpus"]
    assert (gpu["utilisation"], gpu["memory_used"]) == (None, None)


@pytest.mark.parametrize("script", ["exec sleep 60", "exit 9", "echo No devices were found; exit 6"])
def test_a_tool_that_hangs_or_fails_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    a_tool(tmp_path, script, monkeypatch)
    assert machine.usage(tmp_path)["gpus"] == []
    asked_again = machine._kept.gpus_until - time.monotonic()
    assert asked_again > machine.GPU_REST / 2


def test_a_data_folder_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
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
        assert machine.engine_memory() <= psutil.Process(child.pid).memory_info().rss * 1.5
    finally:
        child.kill()
        other.kill()
        child.communicate()
        other.communicate()
