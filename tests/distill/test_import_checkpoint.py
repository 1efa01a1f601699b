"""Checkpoints from outside: right ones become measured safetensors, all others leave nothing."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from tests.distill.corpus import MARKER, files
from worker.distill import models, sandbox
from worker.distill.data.prepared import Writer
from worker.distill.errors import StopRequested
from worker.distill.evaluate import Scores
from worker.distill.events import Log
from worker.distill.import_checkpoint import import_checkpoint
from worker.distill.read_checkpoint import Refused, check_pickle, read_checkpoint
from worker.distill.spec import ImportSpec, SpecError

METRICS = {
    *(field.name for field in fields(Scores)),
    *("split", "hardware", "parameters", "bytes", "bytes_fp16", "bytes_int8", "flops"),
    *("peak_memory", "peak_memory_best", "peak_memory_is", "throughput", "throughput_batch"),
    *("latency_p50_ms", "latency_p95_ms"),
}


def dataset(folder, classes=10, channels=3):
    random = np.random.RandomState(0)
    names = [str(i) for i in range(classes)]
    with Writer(folder, kind="made", classes=names, channels=channels, height=8, width=8) as writer:
        for split in ("train", "val"):
            images = random.randint(0, 256, (3 * classes, channels, 8, 8)).astype(np.uint8)
            writer.add(split, images, np.arange(3 * classes) % classes)
        writer.finish()
    return folder


@pytest.fixture(scope="module")
def rgb(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data") / "rgb")


@pytest.fixture(scope="module")
def trained():
    """A resnet8 with weights of its own: what a stranger's training script would save."""
    torch.manual_seed(0)
    return models.build("resnet8", num_classes=10, in_channels=3, image_size=8)


def run(path, data, out, architecture="resnet8", report=lambda event: None):
    spec = ImportSpec(
        checkpoint=str(path),
        filename=Path(path).name,
        architecture=architecture,
        dataset=str(data),
        output=str(out / "teacher.safetensors"),
        device="cpu",
    )
    return import_checkpoint(spec, report)


def refused(path, data, out, match, architecture="resnet8"):
    with pytest.raises(SpecError, match=match) as caught:
        run(path, data, out, architecture)
    assert not list(out.glob("*teacher*"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(tmp_path, content, name="weights.pt", **how):
    torch.save(content, tmp_path / name, **how)
    return tmp_path / name


# ---- what is accepted


def test_weights_arrive_unchanged_and_are_measured(tmp_path, rgb, trained):
    result = run(saved(tmp_path, trained.state_dict()), rgb, tmp_path)
    assert set(result) == {"stripped", "cast", "parameters", "sha256", "bytes", "metrics"}
    assert set(result["metrics"]) == METRICS
    assert result["metrics"]["split"] == "val"
    assert (result["stripped"], result["cast"]) == ([], None)
    assert result["parameters"] == sum(p.numel() for p in trained.parameters())
    assert result["bytes"] == (tmp_path / "teacher.safetensors").stat().st_size
    written = load_file(tmp_path / "teacher.safetensors")
    assert written.keys() == trained.state_dict().keys()
    assert all(torch.equal(written[k], v) for k, v in trained.state_dict().items())


def test_the_accuracy_is_the_networks(tmp_path, rgb, trained):
    from worker.distill.data.augment import Augment
    from worker.distill.data.prepared import load

    data = load(rgb)
    val = data.split("val")
    with torch.no_grad():
        logits = trained.eval()(Augment(data.meta).normalise(torch.from_numpy(np.array(val.images))))
    right = (logits.argmax(1).numpy() == val.labels).mean()
    metrics = run(saved(tmp_path, trained.state_dict()), rgb, tmp_path)["metrics"]
    assert metrics["top1"] == pytest.approx(right)


def test_the_same_weights_give_the_same_file(tmp_path, rgb, trained):
    path = saved(tmp_path, trained.state_dict())
    assert len({run(path, rgb, tmp_path)["sha256"] for _ in range(4)}) == 1


def prefixed(prefix):
    return lambda state: OrderedDict((prefix + key, value) for key, value in state.items())


WRAPPED = [
    ("plain", lambda s: s, []),
    ("DataParallel", prefixed("module."), ["module."]),
    ("compiled", prefixed("_orig_mod."), ["_orig_mod."]),
    ("Lightning", lambda s: {"state_dict": prefixed("model.")(s), "epoch": 3}, ["state_dict.", "model."]),
    ("twice", prefixed("module._orig_mod.net."), ["module.", "_orig_mod.", "net."]),
    ("nested", lambda s: {"checkpoint": {"model": s}, "args": {"lr": 0.1}}, ["checkpoint.model."]),
    ("EMA", lambda s: {"ema": {"module": s}, "optimizer": {"state": {}}}, ["ema.module."]),
    ("Parameters", lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()}, []),
    ("no counters", lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, []),
]


@pytest.mark.parametrize(("wrap", "stripped"), [pytest.param(w, s, id=n) for n, w, s in WRAPPED])
def test_wrappings_are_taken_off_and_said(tmp_path, rgb, trained, wrap, stripped):
    result = run(saved(tmp_path, wrap(trained.state_dict())), rgb, tmp_path)
    assert result["stripped"] == stripped
    written = load_file(tmp_path / "teacher.safetensors")
    assert all(torch.equal(written[k], v) for k, v in trained.state_dict().items())


def test_averaged_weights_are_preferred_and_that_is_said(tmp_path, rgb, trained):
    other = {k: v + 1 if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    events = []
    content = {"state_dict": other, "state_dict_ema": trained.state_dict()}
    run(saved(tmp_path, content), rgb, tmp_path, report=events.append)
    assert torch.equal(
        load_file(tmp_path / "teacher.safetensors")["conv1.weight"], trained.state_dict()["conv1.weight"]
    )
    said = " ".join(e.text for e in events if isinstance(e, Log))
    assert "state_dict_ema (the averaged weights); state_dict beside it not used" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast_and_that_is_said(tmp_path, rgb, trained, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    result = run(saved(tmp_path, state), rgb, tmp_path)
    assert result["cast"] == f"{str(dtype).removeprefix('torch.')} → float32"
    assert {t.dtype for t in load_file(tmp_path / "teacher.safetensors").values()} == {
        torch.float32,
        torch.int64,
    }


def test_torchs_old_format_and_safetensors_under_any_name(tmp_path, rgb, trained):
    state = trained.state_dict()
    old = saved(tmp_path, state, _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "weights.pth", metadata={"format": "pt", "note": "<script>"})
    results = [run(path, rgb, tmp_path) for path in (old, tmp_path / "weights.pth")]
    assert results[0]["sha256"] == results[1]["sha256"]


# ---- what does not fit


def other(architecture="resnet8", classes=10, channels=3):
    return models.build(architecture, num_classes=classes, in_channels=channels, image_size=8).state_dict()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (
            other(classes=7),
            r"0 missing, 0 unexpected, 2 of another shape.*7 classes apart, the dataset has 10",
        ),
        (other(channels=1), "conv1.weight is 16×1×3×3 instead of 16×3×3×3.*takes 1 channel"),
        (other("resnet14"), r"0 missing, \d+ unexpected.*and \d+ more.*Choose the architecture"),
        (other("vgg8"), "Choose the architecture these weights were trained as"),
        (
            {k: v for k, v in other().items() if not k.startswith("fc")},
            "Only the backbone is in the file, the classifier fc is not",
        ),
    ],
    ids=["classes", "channels", "depth", "family", "backbone"],
)
def test_a_mismatch_names_the_differences_and_the_way_out(tmp_path, rgb, state, says):
    message = refused(saved(tmp_path, state), rgb, tmp_path, says)
    assert message.count(" is ") <= 10 + 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.fill_(float("nan")), "NaN or infinite"),
        (lambda t: t[:0], "of another shape"),
        (lambda t: t.to(torch.int8), "quantised"),
        (lambda t: t.to(torch.complex64), "complex"),
        (lambda t: t.to_sparse(), "sparse"),
        (lambda t: torch.tensor(1.0).expand(t.shape), "not their data"),
        (lambda t: t.double() * 1e300, "float32 cannot hold"),
    ],
)
def test_unusable_tensors_are_named(tmp_path, rgb, change, says):
    state = other()
    state["fc.weight"] = change(state["fc.weight"].clone())
    refused(saved(tmp_path, state), rgb, tmp_path, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "no weights, only: nothing"),
        ({"optimizer": {"state": {}}}, "only: optimizer"),
        ({1: torch.zeros(3)}, "not text"),
        ({"conv1.weight": torch.zeros(3), "epoch": 3}, "'epoch' among its weights"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path, rgb, content, says):
    refused(saved(tmp_path, content), rgb, tmp_path, says)


def test_an_image_too_small_or_an_unknown_architecture_is_said_first(tmp_path, rgb, trained):
    refused(saved(tmp_path, trained.state_dict()), rgb, tmp_path, "architecture = 'resnet9000'", "resnet9000")


def test_a_stop_writes_nothing(tmp_path, rgb, trained):
    spec = ImportSpec(
        checkpoint=str(saved(tmp_path, trained.state_dict())),
        filename="w.pt",
        architecture="resnet8",
        dataset=str(rgb),
        output=str(tmp_path / "teacher.safetensors"),
    )
    with pytest.raises(StopRequested):
        import_checkpoint(spec, lambda event: None, lambda: True)
    assert not (tmp_path / "teacher.safetensors").exists()


# ---- hostile files


class Evil:
    def __reduce__(self):
        return Path.touch, (MARKER,)


def evil_zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_runs_code_is_not_opened(tmp_path, rgb, protocol):
    data = pickle.dumps(Evil(), protocol=protocol)
    legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    for number, content in enumerate((data, evil_zip(data), legacy + data)):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        refused(path, rgb, tmp_path, "checkpoint = ")
    assert not MARKER.exists()


def test_names_outside_the_list_are_refused_before_anything_is_loaded():
    for name in (
        b"os\nsystem",
        b"builtins\neval",
        b"torch.serialization\nload",
        b"torch\nload",
        b"functools\npartial",
    ):
        with pytest.raises(Refused, match="object of another kind"):
            check_pickle(b"\x80\x02c" + name + b"\n.")


@pytest.mark.parametrize("cut", [10, 100, -1, -30])
def test_cut_off_files_are_named(tmp_path, rgb, trained, cut):
    path = saved(tmp_path, trained.state_dict())
    path.write_bytes(path.read_bytes()[:cut])
    refused(path, rgb, tmp_path, "cut off or damaged|neither a safetensors")


def test_a_flipped_bit_is_noticed_though_torch_would_not(tmp_path, rgb, trained):
    path = saved(tmp_path, trained.state_dict())
    data = bytearray(path.read_bytes())
    at = data.index(trained.state_dict()["fc.weight"].numpy().tobytes()[:16])
    data[at] ^= 1
    path.write_bytes(data)
    torch.load(io.BytesIO(data), weights_only=True)
    refused(path, rgb, tmp_path, "CRC")


def safetensors(header: object, body: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(begin=0, end=16, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (struct.pack("<Q", 2**63) + b"{}", "claims a header"),
        (safetensors(b'{"a":1,"a":2}'), "twice"),
        (safetensors(b'{"a":' + b"[" * 100_000), "not proper JSON"),
        (safetensors({"a": entry(), "b": entry()}), "overlap"),
        (safetensors({"a": entry(16, 32)}, b"\0" * 32), "gap"),
        (safetensors({"a": entry()}, b"\0" * 17), "should hold 16"),
        (safetensors({"a": entry(shape=(-4,))}), "impossible"),
        (safetensors({"a": entry(shape=(2**62, 4))}), "does not fit its shape"),
        (safetensors({"a": entry(shape=(True, 4))}), "impossible"),
        (safetensors({"a": entry(dtype="F8_E4M3")}), "of type F8_E4M3"),
        (safetensors({"a": entry() | {"more": 1}}), "wrongly"),
        (safetensors({"__metadata__": {"a": 1}, "a": entry()}), "metadata"),
    ],
)
def test_a_wrong_safetensors_header_is_named(tmp_path, content, says):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(Refused, match=says):
        read_checkpoint(tmp_path / "w")


def test_a_right_safetensors_header_passes(tmp_path):
    (tmp_path / "w").write_bytes(save({"a": torch.arange(4.0), "empty": torch.zeros(0, 3)}))
    assert read_checkpoint(tmp_path / "w")["a"].tolist() == [0, 1, 2, 3]


class Net(nn.Module):
    """The network whose weights the corpus holds."""

    def __init__(self, classes=10, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.bn1(self.conv1(x)).relu().mean((2, 3)))


@pytest.mark.parametrize(("path", "verdict"), files("ckpt/"))
def test_the_corpus_of_checkpoints(tmp_path, rgb, monkeypatch, path, verdict):
    monkeypatch.setattr(models, "build", lambda *args, **sizes: Net())
    if verdict == "accept":
        assert run(path, rgb, tmp_path)["parameters"] == 330
        assert (tmp_path / "teacher.safetensors").exists()
    else:
        refused(path, rgb, tmp_path, "checkpoint = ")
    assert not MARKER.exists()


@pytest.mark.parametrize(("path", "verdict"), files("safetensors/"))
def test_the_corpus_of_safetensors(tmp_path, rgb, path, verdict):
    """Its files hold no network: the good ones are read, and then do not fit."""
    if verdict == "reject":
        refused(path, rgb, tmp_path, "checkpoint = ")
    else:
        assert read_checkpoint(path)
        refused(path, rgb, tmp_path, "do not fit resnet8")


# ---- the fence


def test_behind_the_fence_there_is_no_network_and_no_other_program():
    import os
    import socket

    with sandbox.fenced(memory=1 << 30, cpu_seconds=10):
        with pytest.raises(sandbox.Forbidden):
            os.system("true")
        with pytest.raises(sandbox.Forbidden):
            socket.create_connection(("127.0.0.1", 1))
    assert os.system("true") == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit on memory needs Linux")
def test_behind_the_fence_memory_is_bounded_and_afterwards_it_is_not():
    with sandbox.fenced(memory=256 << 20, cpu_seconds=10), pytest.raises(MemoryError):
        np.empty(1 << 30, np.uint8)
    assert np.empty(1 << 30, np.uint8).nbytes == 1 << 30


def test_behind_the_fence_time_is_bounded():
    def spin():
        while True:
            pass

    with pytest.raises(sandbox.TooMuchTime), sandbox.fenced(memory=1 << 30, cpu_seconds=1):
        spin()
