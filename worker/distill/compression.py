"""What a network costs: parameters, bytes of its weights file, FLOPs, latency."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from worker.distill.layers import Size, evaluating, meta_forward
from worker.distill.runtime import synchronize

WARM_UP_SECONDS, MEASURE_SECONDS = 0.2, 1.0
WARM_UP, AT_LEAST, AT_MOST = 3, 10, 500  # forwards
COSTS = ("parameters", "bytes", "flops", "latency_p50_ms")
_DTYPES = {
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def measure(model: nn.Module, image: tuple[int, int, int], device: torch.device) -> dict[str, Any]:
    """Everything below for images (C, H, W), by a result's keys. Latency on `device`, where the model is."""
    channels, height, width = image
    p50, p95 = latency(model, image, device)
    return {
        "parameters": parameters(model),
        "bytes": weights_bytes(model),
        "flops": flops(model, channels, (height, width)),
        "latency_p50_ms": p50,
        "latency_p95_ms": p95,
    }


def compression(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, float | None]:
    """teacher ÷ student for each cost of two `measure` results; above 1 the student is smaller or faster."""
    ratios: dict[str, float | None] = {}
    for cost in COSTS:
        ours, theirs = student.get(cost), teacher.get(cost)
        ratios[cost] = theirs / ours if ours and theirs is not None else None
    return ratios


def parameters(model: nn.Module) -> int:
    """Trainable or not, a shared one once; buffers are no parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, in_channels: int, image_size: Size) -> int:
    """2 × multiply-adds of convolutions, matrix products and attention for one image; nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        meta_forward(model, in_channels, image_size)
    return int(counter.get_total_flops())


def weights_bytes(model: nn.Module) -> int:
    """Size of the safetensors file of the whole state (buffers too), floats as fp32. Nothing is written.

    The format: 8 bytes of length, a JSON header padded to 8 bytes, the tensors end to end, wider types first.
    """
    state: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        state.setdefault(id(tensor), (name, tensor))  # a shared tensor is stored once
    entries = [
        (torch.float32 if t.is_floating_point() else t.dtype, name, list(t.shape), t.numel())
        for name, t in state.values()
    ]
    header: dict[str, Any] = {}
    offset = 0
    for dtype, name, shape, count in sorted(entries, key=lambda e: (-e[0].itemsize, e[1])):
        end = offset + count * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + offset


def latency(model: nn.Module, image: tuple[int, int, int], device: torch.device) -> tuple[float, float]:
    """(p50, p95) in milliseconds of a forward of one image in evaluation mode; takes about a second."""
    with evaluating(model), torch.inference_mode():
        return _percentiles(_timings(model, torch.rand(1, *image, device=device), device))


def _timings(model: nn.Module, x: torch.Tensor, device: torch.device) -> list[float]:
    """Seconds of each forward. The device is drained before and after each, so that nothing is queued."""

    def once() -> float:
        synchronize(device)
        start = time.perf_counter()
        model(x)
        synchronize(device)
        return time.perf_counter() - start

    begin = time.perf_counter()
    warm_ups = 0
    while warm_ups < WARM_UP or (warm_ups < AT_MOST and time.perf_counter() - begin < WARM_UP_SECONDS):
        once()
        warm_ups += 1
    timings: list[float] = []
    begin = time.perf_counter()
    while len(timings) < AT_LEAST or (
        len(timings) < AT_MOST and time.perf_counter() - begin < MEASURE_SECONDS
    ):
        timings.append(once())
    return timings


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    values = torch.tensor(seconds, dtype=torch.float64) * 1000
    p50, p95 = torch.quantile(values, torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
    return p50, p95
