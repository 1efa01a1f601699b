"""Device, seeds and torchvision beside any torch."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from worker.distill import runtime
from worker.distill.spec import SpecError


def test_the_cpu_is_always_there() -> None:
    assert runtime.pick_device("cpu") == torch.device("cpu")
    assert runtime.available_devices()[-1] == "cpu"


def test_auto_is_the_best_device() -> None:
    assert runtime.pick_device("auto").type == runtime.available_devices()[0]


def test_a_missing_device_names_those_there_are() -> None:
    missing = next(name for name in ("mps", "cuda") if name not in runtime.available_devices())
    with pytest.raises(SpecError) as caught:
        runtime.pick_device(missing)
    assert caught.value.field == "device"
    assert caught.value.value == missing
    assert "cpu" in caught.value.fix


def test_a_device_is_described_by_its_hardware_and_threads() -> None:
    words = runtime.describe_device(torch.device("cpu"))
    assert f"{torch.get_num_threads()} thread" in words
    assert len(words) > len(" (CPU, 1 thread)")


def test_a_seed_repeats_every_generator() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    runtime.seed_everything(7)
    first = draw()
    runtime.seed_everything(7)
    assert draw() == first
    runtime.seed_everything(8)
    assert draw() != first


def test_torchvision_imports_and_works_beside_this_torch() -> None:
    code = (
        "from worker.distill import runtime; import sys; assert 'torchvision' not in sys.modules;"
        "tv = runtime.import_torchvision(); assert runtime.import_torchvision() is tv;"
        "import torch, torchvision.transforms.v2, torchvision.datasets;"
        "print(tv.models.resnet18()(torch.zeros(2, 3, 32, 32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2, 1000])" in done.stdout


def test_nothing_is_declared_where_the_compiled_operators_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_compiled_operators", lambda: "")
    monkeypatch.setattr(runtime, "_declared", [])
    runtime.import_torchvision()
    assert runtime._declared == []


def test_doctor_is_told_how_torchvision_fares(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.torchvision_state().startswith("torchvision 0.")
    monkeypatch.setattr(runtime, "_compiled_operators", lambda: "no libtorch_cuda.so")
    assert "no libtorch_cuda.so" in runtime.torchvision_state()
    monkeypatch.setattr(runtime, "_compiled_operators", lambda: "")
    assert "operators loaded" in runtime.torchvision_state()
