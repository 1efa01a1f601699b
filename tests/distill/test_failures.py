"""Why a run cannot go on: real errors where they can be had, in words that say what to do."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.distill.runs import identical, series, weights
from worker.distill import data, import_checkpoint, keeping, trainer
from worker.distill.data import prepared
from worker.distill.errors import OutOfMemory
from worker.distill.events import Log
from worker.distill.failures import failure
from worker.distill.spec import PrepareSpec, SpecError, TeacherCache

ROOT = Path(__file__).parents[2]


def raised(work):
    """The event for whatever it raises."""
    with pytest.raises(Exception) as error:  # noqa: PT011 - which one is what the tests are about
        work()
    return failure(error.value)


# ---- the disk ------------------------------------------------------------------------------------


def test_a_full_disk_ends_a_run_with_its_path_and_it_goes_on_when_there_is_room(
    spec, small_disk, monkeypatch
):
    monkeypatch.setattr(keeping, "EPOCH_END", 0)
    undisturbed = spec("undisturbed")
    trainer.train(undisturbed, lambda event: None)
    run, events = undisturbed.model_copy(update={"output": str(small_disk / "run")}), []

    def fill(event):
        if event.type == "checkpoint" and event.step == 6:
            (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))

    failed = raised(lambda: trainer.train(run, fill))
    assert failed.code == "disk_full"
    assert f"{small_disk}/run/resume-0000000012: No space left on device" in failed.message
    assert "goes on by itself from its last checkpoint" in failed.fix
    assert not failed.traceback
    (small_disk / "filler").unlink()
    trainer.train(run, events.append)
    assert series(events, "loss/total")[0][0] == 7
    assert identical(weights(run), weights(undisturbed))


def test_a_disk_without_inodes_is_full_too(tmp_path, small_disk):
    subprocess.run(["mount", "-o", "remount,nr_inodes=2", str(small_disk)], check=True)
    (small_disk / "the last one").touch()
    failed = raised(lambda: keeping.checkpoint.save_resume(small_disk, {}, 1))
    assert failed.code == "disk_full"
    assert "df -i" in failed.fix


def test_a_quota_that_is_used_up_is_a_full_disk_simulated():
    error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/x")
    assert failure(error).code == "disk_full"
    assert "/data/x: Disk quota exceeded" in failure(error).message


def test_libraries_that_pass_a_full_disk_on_as_text_are_understood(small_disk):
    big = {"x": torch.randn(2_000_000)}
    by_torch = raised(lambda: torch.save(big, small_disk / "x.pt"))
    (small_disk / "x.pt").unlink()
    by_safetensors = raised(lambda: safetensors.torch.save_file(big, small_disk / "x"))
    assert {by_torch.code, by_safetensors.code} == {"disk_full"}


def test_a_dataset_that_does_not_fit_on_the_disk_leaves_nothing(small_disk, tmp_path):
    noise = np.random.RandomState(0)
    for k in range(80):
        path = tmp_path / "pictures" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.randint(0, 256, (160, 160, 3)).astype(np.uint8)).save(path)
    request = PrepareSpec(
        kind="image_folder",
        source=str(tmp_path / "pictures"),
        output=str(small_disk / "out"),
        options={"image_size": 160},
    )
    failed = raised(lambda: data.prepare(request, lambda event: None))
    assert failed.code == "disk_full"
    assert str(small_disk) in failed.message
    assert list(small_disk.iterdir()) == []


def test_an_upload_that_does_not_fit_on_the_disk_leaves_nothing(small_disk):
    failed = raised(lambda: import_checkpoint.write(small_disk / "weights", torch.nn.Linear(2000, 1000)))
    assert failed.code == "disk_full"
    assert f"{small_disk}/weights: No space" in failed.message
    assert list(small_disk.iterdir()) == []


def test_a_download_that_fills_the_disk_is_no_missing_network_simulated():
    error = SpecError("source", None, "MNIST cannot be downloaded.", "Allow the internet.")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert failure(error).code == "disk_full"


def test_the_teachers_cache_on_a_full_disk_costs_nothing_but_memory(spec, small_disk, tmp_path):
    """The view does not fit; the run ends as the one whose cache has room."""
    roomy, tight = spec("roomy"), spec("tight")
    roomy = roomy.model_copy(update={"cache": TeacherCache(folder=str(tmp_path / "cache"))})
    tight = tight.model_copy(update={"cache": TeacherCache(folder=str(small_disk / "cache"))})
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    trainer.train(roomy, lambda event: None)
    events = []
    result = trainer.train(tight, events.append)
    assert identical(weights(tight), weights(roomy))
    said = [event.text for event in events if isinstance(event, Log) and event.level == "warning"]
    assert any("kept in memory" in text and "No space left" in text for text in said)
    assert "No space left" in result["cache"]["reason"]
    views = [path for path in (small_disk / "cache").rglob("*") if path.is_file()]
    assert all((path.parent / "manifest.json").exists() for path in views)  # no half ones


# ---- rights --------------------------------------------------------------------------------------


def test_a_disk_that_may_not_be_written_is_named(spec, small_disk, read_only):
    read_only()
    run = spec().model_copy(update={"output": str(small_disk / "run")})
    failed = raised(lambda: trainer.train(run, lambda event: None))
    assert failed.code == "permission"
    assert f"{small_disk}/run: Read-only file system" in failed.message
    assert "writable" in failed.fix


def test_what_the_workers_user_may_not_read_is_named(tmp_path):
    """Root may read everything, so somebody else tries."""
    if os.getuid():
        pytest.skip("becoming another user takes root")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "meta.json").write_text("{}")
    os.chmod(tmp_path / "set" / "meta.json", 0)
    nobody = 65534
    os.seteuid(nobody)
    try:
        failed = raised(lambda: prepared.load(tmp_path / "set"))
    finally:
        os.seteuid(0)
    assert failed.code == "permission"
    assert str(tmp_path / "set" / "meta.json") in failed.message
    assert "Permission denied" in failed.message


# ---- limits --------------------------------------------------------------------------------------


def test_too_many_open_files_is_said_with_the_limit(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        while True:
            taken.append(open(os.devnull))  # noqa: SIM115 - closed below
    except OSError as error:
        failed = failure(error)
    finally:
        for file in taken:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert failed.code == "error"
    assert f"limit is {min(soft, 256)}" in failed.message
    assert "ulimit -n" in failed.fix


# ---- devices: simulated, since there is none to break --------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronous …",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, …)`",
    ],
)
def test_a_device_that_fails_is_told_from_the_run_simulated(text):
    for kind in (RuntimeError, torch.AcceleratorError):
        failed = failure(kind(text))
        assert failed.code == "device_lost"
        assert text.splitlines()[0] in failed.message
        assert "asynchronous" not in failed.message
        assert "another device" in failed.fix


@pytest.mark.parametrize(
    "text",
    ["CUDA error: device-side assert triggered", "CUDA error: invalid configuration argument"],
)
def test_a_programs_mistake_takes_no_device_out_of_use_simulated(text):
    assert failure(RuntimeError(text)).code == "error"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_elsewhere_than_in_training_is_no_lost_device_simulated(error):
    assert failure(error).code == "out_of_memory"


def test_the_peak_is_told_where_the_device_knows_it_simulated(spec, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer, "one_step", exhausted)
    monkeypatch.setattr(trainer, "memory_used", lambda device: "71.2 of 79.1 GiB in use at its fullest")
    failed = raised(lambda: trainer.train(spec(epochs=1), lambda event: None))
    assert failed.code == "out_of_memory"
    assert "batch of 6" in failed.message
    assert "71.2 of 79.1 GiB" in failed.message


def test_a_cpu_knows_no_peak(spec):
    assert str(OutOfMemory(6, "cpu")) == "a batch of 6 does not fit in the memory of cpu"


def test_every_other_error_keeps_its_traceback():
    failed = raised(lambda: {}["x"])
    assert (failed.code, failed.message) == ("error", "KeyError: 'x'")
    assert "test_failures" in failed.traceback


def test_reasons_are_found_without_torch():
    program = (
        "import sys; import worker.distill.failures, worker.distill.alive; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
