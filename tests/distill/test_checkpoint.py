"""Files are whole or absent."""

import errno
import hashlib
import os
import shutil
import tracemalloc

import pytest
import safetensors.torch
import torch
from torch import nn

from worker.distill import checkpoint
from worker.distill.spec import SpecError


def steps(folder):
    return [int(path.name.split(".")[0].removeprefix("resume-")) for path in sorted(folder.glob("resume-*"))]


def test_what_was_saved_is_what_is_loaded(tmp_path):
    event = checkpoint.save_resume(tmp_path, {"weights": torch.arange(3), "epoch": 2}, step=7)
    content = (tmp_path / os.path.basename(event.path)).read_bytes()
    assert hashlib.sha256(content).hexdigest() == event.sha256
    assert (event.kind, event.step, event.bytes) == ("resume", 7, len(content))
    state = checkpoint.load_resume(tmp_path, print)
    assert state["epoch"] == 2
    assert torch.equal(state["weights"], torch.arange(3))


def test_the_last_two_are_kept(tmp_path):
    for step in (5, 10, 100, 20_000):
        checkpoint.save_resume(tmp_path, {"step": step}, step)
    assert steps(tmp_path) == [100, 20_000]


def test_of_one_step_there_is_one_file_the_newest(tmp_path):
    for batch in (0, 9):
        checkpoint.save_resume(tmp_path, {"batch": batch}, step=9)
    assert steps(tmp_path) == [9]
    assert checkpoint.load_resume(tmp_path, print) == {"batch": 9}


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-10], lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:], lambda b: b""]
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    for step in (1, 2):
        event = checkpoint.save_resume(tmp_path, {"step": step}, step)
    newest = tmp_path / os.path.basename(event.path)
    newest.write_bytes(damage(newest.read_bytes()))
    said = []
    assert checkpoint.load_resume(tmp_path, said.append) == {"step": 1}
    assert said[0].level == "warning"


def test_a_file_half_written_is_swept_and_never_read(tmp_path):
    (tmp_path / ".writing-resume-0000000009").write_bytes(b"half")
    assert checkpoint.load_resume(tmp_path, print) is None
    assert list(tmp_path.iterdir()) == []


def big():
    """More than a small disk holds, in pieces of which the first would fit."""
    return {"small": torch.zeros(10_000), "big": torch.randn(2_000_000)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_leaves_the_old_checkpoint_and_names_the_path(small_disk):
    checkpoint.save_resume(small_disk, {"step": 1}, 1)
    before = names(small_disk)
    with pytest.raises(OSError, match="No space left") as full:
        checkpoint.save_resume(small_disk, big(), 2)
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(small_disk / "resume-0000000002"))
    assert names(small_disk) == before
    assert checkpoint.load_resume(small_disk, print) == {"step": 1}


def test_a_disk_that_fills_up_at_the_very_end_is_no_checkpoint_either(small_disk):
    """Whatever of it fits: a write cut short is never taken for a whole one."""
    checkpoint.save_resume(small_disk, {"step": 1}, 1)
    state = {"big": torch.zeros(100_000)}
    needed = checkpoint.save_resume(small_disk / "try", state, 1).bytes
    for path in (small_disk / "try").iterdir():
        path.unlink()
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - needed + 3000))
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_resume(small_disk, state, 2)
    assert steps(small_disk) == [1]
    assert not list(small_disk.glob(".*"))


def test_a_disk_that_may_not_be_written_is_said_with_its_path(small_disk, read_only):
    checkpoint.save_resume(small_disk, {"step": 1}, 1)
    read_only()
    for save in (
        lambda: checkpoint.save_resume(small_disk, {"step": 2}, 2),
        lambda: checkpoint.save_student(small_disk, nn.Linear(2, 2), 2),
    ):
        with pytest.raises(OSError, match="Read-only") as refused:
            save()
        assert str(small_disk) in refused.value.filename
    assert checkpoint.load_resume(small_disk, print) == {"step": 1}


def test_a_disk_that_fails_only_when_forced_leaves_the_old_files_at_fsync(tmp_path, monkeypatch):
    net = nn.Linear(2, 2)
    checkpoint.save_student(tmp_path, net, 1)
    checkpoint.save_resume(tmp_path, {"step": 1}, 1)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    nn.init.zeros_(net.weight)

    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    for save in (
        lambda: checkpoint.save_student(tmp_path, net, 2),
        lambda: checkpoint.save_resume(tmp_path, {"step": 2}, 2),
    ):
        with pytest.raises(OSError, match="Input/output") as failed:
            save()
        assert str(tmp_path) in failed.value.filename
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_folder_that_vanished_is_made_again(tmp_path):
    folder = tmp_path / "run"
    checkpoint.save_resume(folder, {"step": 1}, 1)
    shutil.rmtree(folder)
    checkpoint.save_resume(folder, {"step": 2}, 2)
    assert checkpoint.load_resume(folder, print) == {"step": 2}


def test_a_folder_that_vanishes_while_it_is_written_to_is_said(tmp_path):
    folder = tmp_path / "run"

    class Vanishing:
        """Pickled in the middle of the file."""

        def __reduce__(self):
            shutil.rmtree(folder)
            return (dict, ())

    with pytest.raises(FileNotFoundError) as failed:
        checkpoint.save_resume(folder, {"weights": torch.zeros(5), "then": Vanishing()}, 2)
    assert str(folder) in failed.value.filename
    assert not folder.exists()


def test_a_path_below_a_file_is_said(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as failed:
        checkpoint.save_resume(tmp_path / "run", {"step": 1}, 1)
    assert str(tmp_path / "run") in failed.value.filename


def test_when_no_checkpoint_is_whole_the_run_does_not_begin_anew_by_itself(tmp_path):
    for step in (1, 2):
        event = checkpoint.save_resume(tmp_path, {"step": step}, step)
        with open(event.path, "r+b") as file:
            file.truncate(40)
    said = []
    with pytest.raises(SpecError, match=r"none of the 2 checkpoints.*from the beginning") as refused:
        checkpoint.load_resume(tmp_path, said.append)
    assert refused.value.field == "output"
    assert len(said) == 2


def test_a_large_checkpoint_is_not_held_in_memory_twice(tmp_path):
    """torch's own buffers beside: what is written goes to the file piece by piece."""
    state = {str(k): torch.zeros(250_000) for k in range(64)}  # 64 MB in pieces of 1 MB
    tracemalloc.start()
    checkpoint.save_resume(tmp_path, state, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_000_000


def test_a_student_comes_back_from_its_file(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(memory_format=torch.channels_last)
    event = checkpoint.save_student(tmp_path, net, 5)
    copy = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    checkpoint.load_weights(copy, event.path, field="student.weights", num_classes=2)
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), copy.state_dict().values(), strict=True)
    )


def refusal(tmp_path, saved, model, classes):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(saved, path)
    with pytest.raises(SpecError) as refused:
        checkpoint.load_weights(model, str(path), field="teacher.weights", num_classes=classes)
    assert refused.value.field == "teacher.weights"
    return str(refused.value)


def test_another_number_of_classes_is_said_with_both_numbers(tmp_path):
    message = refusal(tmp_path, nn.Linear(4, 7).state_dict(), nn.Linear(4, 10), 10)
    assert "7 classes" in message
    assert "has 10" in message


def test_another_architecture_is_said_with_keys_and_shapes(tmp_path):
    message = refusal(tmp_path, {"weight": torch.zeros(3, 5), "extra": torch.zeros(1)}, nn.Linear(4, 3), 3)
    for part in ("bias is missing", "extra is not part", "weight has shape (3, 5) instead of (3, 4)"):
        assert part in message


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(SpecError, match="cannot be read"):
        checkpoint.load_weights(nn.Linear(1, 1), str(path), field="teacher.weights", num_classes=1)
