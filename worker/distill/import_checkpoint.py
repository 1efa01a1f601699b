"""A checkpoint somebody uploaded → a safetensors file of a network we can build, with its measured accuracy.

Nothing is written before everything is known to be right.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from worker.distill import compression, models
from worker.distill.data import prepared
from worker.distill.data.augment import Augment
from worker.distill.data.prepared import Prepared
from worker.distill.errors import naming
from worker.distill.evaluate import evaluate, never
from worker.distill.events import Log, Phase, Reporter
from worker.distill.read_checkpoint import Refused, read_checkpoint
from worker.distill.runtime import pick_device
from worker.distill.sandbox import Forbidden, TooMuchTime, fenced
from worker.distill.spec import ImportSpec, SpecError

MEMORY, CPU_SECONDS = 8 << 30, 300  # beyond what the file itself needs
# Where training scripts put the state dict. Averaged weights first: they are what such a script evaluates.
PLACES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict"),
    *("model_state", "model", "net", "network", "weights", "params", "module", "checkpoint"),
)
AVERAGED = PLACES[:4]
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
SHOWN = 10


@dataclass
class Found:
    """A state dict and what was done to get it."""

    tensors: dict[str, Tensor]
    stripped: list[str] = field(default_factory=list)
    cast: str | None = None


def import_checkpoint(
    spec: ImportSpec, report: Reporter, should_stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """The `import-checkpoint` command."""
    dataset = prepared.load(spec.dataset)
    device = pick_device(spec.device)
    report(Phase(name="model", detail=spec.architecture))
    model = build(spec.architecture, dataset)
    report(Phase(name="checkpoint", detail="reading the file"))
    try:
        found = read(Path(spec.checkpoint), model, report)
    except Refused as error:
        raise SpecError("checkpoint", spec.filename, f"{error}.", error.fix) from error
    fit(found, model, spec, dataset, report)
    report(Phase(name="evaluation", detail=f"on the {dataset.evaluation_split} split"))
    model = model.to(device)
    metrics = measure(model, dataset, device, should_stop)
    sha256, size = write(Path(spec.output), model)
    return {
        "stripped": found.stripped,
        "cast": found.cast,
        "parameters": metrics["parameters"],
        "sha256": sha256,
        "bytes": size,
        "metrics": metrics,
    }


def build(architecture: str, dataset: Prepared) -> nn.Module:
    meta = dataset.meta
    return models.build(
        architecture, num_classes=len(meta.classes), in_channels=meta.channels, image_size=meta.height
    )


# ---- reading -------------------------------------------------------------------------------------


def read(path: Path, model: nn.Module, report: Reporter) -> Found:
    """The file's state dict, checked tensor by tensor, its names brought as near to the model's as can be."""
    size = path.stat().st_size
    try:
        with fenced(memory=MEMORY + 4 * size, cpu_seconds=CPU_SECONDS):
            loaded = read_checkpoint(path)
            state, place = find_state_dict(loaded)
            state = {name: tensor.detach() for name, tensor in state.items()}
            for name, tensor in state.items():
                check_tensor(name, tensor)
    except (MemoryError, RecursionError) as error:
        raise Refused("needs far more memory to read than its size explains") from error
    except (Forbidden, TooMuchTime) as error:
        raise Refused(f"is refused: {error}") from error
    if place:
        averaged = " (the averaged weights)" if place.split(".")[0] in AVERAGED else ""
        others = [k for k in PLACES if isinstance(loaded, dict) and k in loaded and k != place.split(".")[0]]
        beside = f"; {', '.join(others)} beside it not used" if others else ""
        report(Log(text=f"The weights were found under {place}{averaged}{beside}."))
    found = strip_prefixes(Found(state, [f"{place}."] if place else []), set(model.state_dict()))
    if found.stripped:
        report(Log(text=f"Stripped from every name: {', '.join(found.stripped)}"))
    return found


def find_state_dict(loaded: Any, depth: int = 3) -> tuple[dict[str, Tensor], str]:
    """The dict of tensors and where it was ('' at the top, 'ema.module' below)."""
    if not isinstance(loaded, dict):
        raise Refused(f"holds a {type(loaded).__name__}, not a state dict")
    if any(not isinstance(key, str) for key in loaded):
        raise Refused("has names that are not text")
    for place in PLACES:
        inner = loaded.get(place)
        if isinstance(inner, dict) and depth and _has_tensors(inner, depth):
            state, below = find_state_dict(inner, depth - 1)
            return state, f"{place}.{below}" if below else place
    if not any(isinstance(value, Tensor) for value in loaded.values()):
        keys = ", ".join(list(loaded)[:5]) or "nothing"
        raise Refused(f"holds no weights, only: {keys[:200]}")
    for name, value in loaded.items():
        if not isinstance(value, Tensor):
            raise Refused(f"has {name[:100]!r} among its weights, which is a {type(value).__name__}")
    return dict(loaded), ""


def _has_tensors(value: dict[Any, Any], depth: int) -> bool:
    return any(
        isinstance(v, Tensor) or (depth and isinstance(v, dict) and _has_tensors(v, depth - 1))
        for v in value.values()
    )


def check_tensor(name: str, tensor: Tensor) -> None:
    name = name[:100]
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise Refused(f"has the tensor {name!r} sparse, quantised or without data")
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype.itemsize < 2):
        raise Refused(f"has the tensor {name!r} of type {_dtype(tensor)}; floats of 16 to 64 bits are read")
    # A view with stride 0 claims more numbers than there are: copying it would fill the memory.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise Refused(f"has the tensor {name!r} of {tensor.numel():,} numbers, but not their data")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise Refused(f"has NaN or infinite numbers in {name!r}", "Choose a checkpoint saved before that.")
    if name.endswith("running_var") and tensor.numel() and float(tensor.min()) < 0:
        raise Refused(f"has a negative variance in {name!r}", "Choose an undamaged checkpoint.")


def strip_prefixes(found: Found, wanted: set[str]) -> Found:
    """Take off prefixes that every name has, as long as more names then match."""
    best, names, taken = found, list(found.tensors), list(found.stripped)
    tensors = list(found.tensors.values())
    while names and (prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in names)), None)):
        names = [name.removeprefix(prefix) for name in names]
        taken = [*taken, prefix]
        if len(wanted.intersection(names)) > len(wanted.intersection(best.tensors)):
            best = Found(dict(zip(names, tensors, strict=True)), taken)
    return best


# ---- matching ------------------------------------------------------------------------------------


def fit(found: Found, model: nn.Module, spec: ImportSpec, dataset: Prepared, report: Reporter) -> None:
    """Put the weights into the model, or say exactly why they do not fit."""
    ours = model.state_dict()
    for key in ours:
        norm, _, last = key.rpartition(".")
        if last == "num_batches_tracked" and f"{norm}.running_var" in found.tensors:
            # PyTorch before 0.4.1 did not save it, and evaluation does not use it
            found.tensors.setdefault(key, torch.zeros_like(ours[key]))
    differences(found.tensors, ours, spec, dataset)
    kinds = {_dtype(t) for t in found.tensors.values() if t.is_floating_point()} - {"float32"}
    for name, tensor in found.tensors.items():
        if ours[name].is_floating_point() and not tensor.is_floating_point():
            problem = f"has {name} as {_dtype(tensor)}; quantised weights are not read."
            raise SpecError("checkpoint", spec.filename, problem, "Save the weights as floats.")
        found.tensors[name] = tensor.to(ours[name].dtype)
        if not bool(torch.isfinite(found.tensors[name]).all()):
            problem = f"has numbers in {name} that float32 cannot hold."
            raise SpecError("checkpoint", spec.filename, problem, "Choose another checkpoint.")
    if kinds:
        found.cast = f"{', '.join(sorted(kinds))} → float32"
        report(Log(text=f"Weights cast: {found.cast}."))
    model.load_state_dict(found.tensors)


def differences(
    theirs: dict[str, Tensor], ours: dict[str, Tensor], spec: ImportSpec, dataset: Prepared
) -> None:
    """SpecError with the first ten differences, if there are any."""
    missing = [key for key in ours if key not in theirs]
    unexpected = [key for key in theirs if key not in ours]
    shapes = [key for key in ours if key in theirs and ours[key].shape != theirs[key].shape]
    if not missing and not unexpected and not shapes:
        return
    lines = [f"{key} is {_shape(theirs[key])} instead of {_shape(ours[key])}" for key in shapes]
    lines += [f"{key} {_shape(ours[key])} is missing" for key in missing]
    lines += [f"{key[:100]} {_shape(theirs[key])} is unexpected" for key in unexpected]
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    problem = (
        f"the weights do not fit {spec.architecture} ({len(missing)} missing, {len(unexpected)} unexpected, "
        f"{len(shapes)} of another shape): {'; '.join(lines[:SHOWN])}{more}."
    )
    fix = advice(theirs, ours, dataset, missing, unexpected, shapes)
    raise SpecError("checkpoint", spec.filename, problem, fix)


def advice(
    theirs: dict[str, Tensor],
    ours: dict[str, Tensor],
    dataset: Prepared,
    missing: list[str],
    unexpected: list[str],
    shapes: list[str],
) -> str:
    """The likely mistake and what to do about it."""
    classes, channels = len(dataset.meta.classes), dataset.meta.channels
    if len(missing) == len(ours):
        return "Choose the architecture these weights were trained as."
    if missing or unexpected:
        first = missing[0].rpartition(".")[0] if missing else ""
        if not unexpected and missing and all(key.rpartition(".")[0] == first for key in missing):
            return (
                f"Only the backbone is in the file, the classifier {first} is not: upload the whole network."
            )
        return "Choose the architecture these weights were trained as."
    pairs = [(tuple(ours[key].shape), tuple(theirs[key].shape)) for key in shapes]
    if all(a[:1] == (classes,) and a[1:] == b[1:] and b for a, b in pairs):
        return (
            f"The file's network tells {pairs[0][1][0]} classes apart, the dataset has {classes}: choose the "
            "dataset it was trained on, or train this architecture on the dataset."
        )
    if all(len(a) == len(b) == 4 and a[1] == channels and (a[0], a[2:]) == (b[0], b[2:]) for a, b in pairs):
        return (
            f"Its first layer takes {pairs[0][1][1]} channels, the dataset's images have {channels}: prepare "
            "the dataset in that colour mode, or choose the dataset it was trained on."
        )
    return "Choose the architecture (width and depth) these weights were trained as."


# ---- measuring and writing -----------------------------------------------------------------------


def measure(
    model: nn.Module, dataset: Prepared, device: torch.device, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """The same figures, by the same code, as of a trained network."""
    meta, name = dataset.meta, dataset.evaluation_split
    scores = evaluate(
        model,
        dataset.split(name),
        Augment(meta),
        num_classes=len(meta.classes),
        device=device,
        task=meta.task,
        should_stop=should_stop,
    )
    costs = compression.measure(model, (meta.channels, meta.height, meta.width), device, should_stop)
    return {**asdict(scores), "split": name, **costs}


def write(output: Path, model: nn.Module) -> tuple[str, int]:
    """Write aside, force to disk, rename: (sha256, bytes)."""
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}
    # One entry of metadata: of several, the library chooses the order anew each time, and the hash with it.
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.writing-{uuid.uuid4().hex[:8]}")
    try:
        with naming(output), open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return hashlib.sha256(content).hexdigest(), len(content)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"
