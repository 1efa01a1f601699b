"""Files are whole or absent."""

import hashlib
import os

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


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    net = nn.Linear(2, 2)
    checkpoint.save_student(tmp_path, net, 1)
    before = (tmp_path / checkpoint.STUDENT).read_bytes()
    nn.init.zeros_(net.weight)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_student(tmp_path, net, 2)
    assert (tmp_path / checkpoint.STUDENT).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


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
