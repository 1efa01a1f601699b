"""`python -m worker.distill`: a real process, its events, its exit codes."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from worker.distill import __main__ as cli
from worker.distill import events, profile
from worker.distill.errors import Diverged, OutOfMemory
from worker.distill.spec import ProfileSpec

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*arguments, **kwargs):
    command = [sys.executable, "-m", "worker.distill", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True, **pipes, **kwargs)


def finish(process, text=None):
    """(exit code, events): every line of stdout is an event, or parse() raises."""
    out, _ = process.communicate(text, timeout=100)
    return process.returncode, [events.parse(line) for line in out.splitlines()]


def write(folder, **spec):
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return str(path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    code, said = finish(start("prepare", write(folder, kind="digits", output=str(folder / "digits"))))
    assert (code, said[-1].data["sizes"]["test"]) == (0, 360)
    return str(folder / "digits")


def training(digits, output, **settings):
    return {
        "dataset": digits,
        "student": {"architecture": "resnet8"},
        "training": {"epochs": 1, "batch_size": 128, **settings},
        "output": str(output),
        "device": "cpu",
    }


def test_train_speaks_events_and_leaves_the_student(digits, tmp_path):
    code, said = finish(start("train", write(tmp_path, **training(digits, tmp_path / "run"))))
    assert code == 0
    assert isinstance(said[0], events.Phase)
    assert isinstance(said[-1], events.Result)
    assert said[-1].data["steps"] == 10
    assert (tmp_path / "run" / "student.safetensors").is_file()


def test_sigterm_stops_at_a_checkpoint_and_the_run_goes_on_from_there(digits, tmp_path):
    spec = write(tmp_path, **training(digits, tmp_path / "run", epochs=10_000))
    process = start("train", spec)
    for line in process.stdout:
        if isinstance(events.parse(line), events.Metrics):
            break
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 4
    assert isinstance(said[-1], events.Stopped)
    assert isinstance(said[-2], events.Checkpoint)
    assert said[-1].step == said[-2].step >= 1

    again = start("train", spec)
    first = next(event for line in again.stdout if isinstance(event := events.parse(line), events.Metrics))
    again.send_signal(signal.SIGINT)
    assert first.steps[0] == said[-1].step + 1
    assert finish(again)[0] == 4


def test_the_warm_spare_does_one_request_from_stdin():
    spec = {"architecture": "resnet8", "num_classes": 10, "in_channels": 3, "image_size": 32}
    request = json.dumps({"command": "profile", "spec": spec}) + "\n"
    code, said = finish(start("serve"), request)
    assert code == 0
    assert said[0] == events.Phase(name="ready")
    assert said[-1].data["parameters"] > 70_000


@pytest.mark.parametrize(("line", "code"), [("", 0), ("\n", 0), ("{}\n", 3), ("[1]\n", 3), ("nonsense\n", 3)])
def test_a_spare_that_gets_no_request_leaves(line, code, monkeypatch, capsys):
    said = []
    monkeypatch.setattr(sys, "stdin", iter_of(line))
    assert cli.serve(said.append, cli.Stop()) == code
    assert [event.code for event in said if isinstance(event, events.Failed)] == ["spec"] * (code == 3)


def iter_of(text):
    import io

    return io.StringIO(text)


def test_a_waiting_spare_ends_at_once_when_told():
    process = start("serve")
    assert events.parse(process.stdout.readline()) == events.Phase(name="ready")
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert (code, said) == (4, [events.Stopped()])


def perform(command, request):
    said = []
    code = cli.perform(command, lambda: request, said.append, cli.Stop())
    return code, said[-1]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"training": {"epochs": -1}}, "training.epochs"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
        ({"training": {"batch_size": 0}}, "training.batch_size"),
        ({"objective": {"terms": [{"method": "kd", "weight": -1}]}}, "objective.terms[0].weight"),
        ({"surprise": 1}, "surprise"),
        ({"student": None}, "student"),
        ({"student": {"architecture": "nonsense"}}, "student.architecture"),
        (
            {
                "teacher": {"architecture": "resnet8"},
                "objective": {"terms": [{"method": "kd", "params": {"temperature": 0}}]},
            },
            "objective.terms[0].params.temperature",
        ),
    ],
)
def test_bad_input_fails_with_the_path_of_the_field(digits, tmp_path, spec, field):
    code, last = perform("train", training(digits, tmp_path) | spec)
    assert code == 3
    assert (last.code, last.field) == ("spec", field)
    assert last.fix
    assert field in last.message
    assert not last.traceback


def test_a_spec_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for path in (str(tmp_path / "missing.json"), str(tmp_path / "broken.json")):
        said = []
        assert cli.perform("train", lambda path=path: cli.read_spec(path), said.append, cli.Stop()) == 3
        assert (said[-1].code, said[-1].field) == ("spec", "spec")


def test_what_goes_wrong_has_a_code_and_words():
    nan = cli.failure(Diverged("loss/kd", float("nan"), 12, 0.05))
    assert nan.code == "nan"
    assert nan.message == "loss/kd became nan at step 12 (learning rate 0.05)."
    memory = cli.failure(OutOfMemory(512, "cuda"))
    assert (memory.code, memory.field, memory.value) == ("out_of_memory", "training.batch_size", "512")
    assert "256" in memory.fix
    try:
        raise KeyError("x")
    except KeyError as error:
        other = cli.failure(error)
    assert other.code == "error"
    assert "test_what_goes_wrong" in other.traceback


def test_help_explains():
    code = start("--help")
    out, _ = code.communicate(timeout=60)
    assert code.returncode == 0
    for word in ("train", "prepare", "import-checkpoint", "profile", "catalogue", "serve", "SIGTERM"):
        assert word in out


def test_nothing_else_ever_prints_among_the_events():
    program = (
        "import os; from worker.distill.__main__ import *; pipe = Pipe(Stop());"
        "print('a library talks'); os.system('echo a child talks'); pipe(Phase(name='x'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert events.parse(done.stdout) == events.Phase(name="x")
    assert "a library talks" in done.stderr
    assert "a child talks" in done.stderr


def test_when_nobody_reads_any_more_the_work_is_asked_to_stop():
    reader, writer = os.pipe()
    stop = cli.Stop()
    pipe = cli.Pipe.__new__(cli.Pipe)
    pipe.file, pipe.stop, pipe.broken = os.fdopen(writer, "w", buffering=1), stop, False
    pipe.lock = threading.Lock()
    os.close(reader)
    pipe(events.Phase(name="x"))
    assert stop()


def test_who_knows_the_catalogue_is_told_of_the_machine_alone():
    _, first = perform("catalogue", None)
    _, again = perform("catalogue", first.data["source"])
    assert again.data == {name: first.data[name] for name in ("source", "versions", "devices")}
    assert perform("catalogue", "another source")[1].data.keys() == first.data.keys()


def test_catalogue_says_what_the_web_needs():
    code, last = perform("catalogue", None)
    assert code == 0
    found = json.loads(json.dumps(last.data))
    assert {"kd", "fitnet"} <= {method["key"] for method in found["methods"]}
    assert {"digits", "image_folder"} <= {kind["key"] for kind in found["dataset_kinds"]}
    assert found["versions"].keys() == {"python", "torch", "torchvision", "timm"}
    assert "cpu" in [device["name"] for device in found["devices"]]
    by_key = {a["key"]: a for a in found["architectures"]}
    assert by_key["torchvision/resnet18"]["parameters"] is None
    counted = profile.profile(ProfileSpec(architecture="vgg8", num_classes=10, in_channels=3, image_size=32))
    assert {name: by_key["vgg8"][name] for name in ("parameters", "flops")} == {
        name: counted[name] for name in ("parameters", "flops")
    }
