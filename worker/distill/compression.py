"""What a network costs: parameters, bytes of its weights, FLOPs, memory, latency, throughput.

Sizes are of real files: the state as fp32, as fp16, and with the weights of convolutions and linear layers as
int8 per output channel. The int8 file says what quantisation would save; its accuracy is not measured.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from worker.distill.batches import memory_format
from worker.distill.errors import StopRequested
from worker.distill.evaluate import never
from worker.distill.layers import Size, evaluating, meta_forward
from worker.distill.runtime import describe_device, synchronize

WARM_UP_SECONDS, MEASURE_SECONDS = 0.1, 0.6  # of latency; throughput is measured as long
WARM_UP, AT_LEAST, AT_MOST = 3, 10, 500  # forwards
LARGEST_BATCH = 4096
COSTS = ("parameters", "bytes", "bytes_fp16", "bytes_int8", "flops", "peak_memory", "latency_p50_ms")
_DTYPES = {
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
Image = tuple[int, int, int]  # (C, H, W)


def measure(
    model: nn.Module, image: Image, device: torch.device, should_stop: Callable[[], bool] = never
) -> dict[str, Any]:
    """Everything below for images (C, H, W), by a result's keys. The network is on `device`.

    Raises StopRequested.
    """
    channels, height, width = image
    p50, p95 = latency(model, image, device, should_stop)
    rate, batch = throughput(model, image, device, should_stop)
    return {
        "parameters": parameters(model),
        "bytes": weights_bytes(model),
        "bytes_fp16": serialised_bytes(_halved(model)),
        "bytes_int8": serialised_bytes(quantised(model)),
        "flops": flops(model, channels, (height, width)),
        "peak_memory": peak_memory(model, image, device),
        "peak_memory_best": peak_memory(model, image, device, batch),
        "peak_memory_is": "allocated" if device.type == "cuda" else "live tensors",
        "latency_p50_ms": p50,
        "latency_p95_ms": p95,
        "throughput": rate,
        "throughput_batch": batch,
        "hardware": describe_device(device),
    }


def compression(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, float | None]:
    """teacher ÷ student for each cost of two `measure` results; above 1 the student is smaller or faster."""
    ratios: dict[str, float | None] = {}
    for cost in COSTS:
        ours, theirs = student.get(cost), teacher.get(cost)
        ratios[cost] = theirs / ours if ours and theirs is not None else None
    return ratios


# ---- counted -------------------------------------------------------------------------------------


def parameters(model: nn.Module) -> int:
    """Trainable or not, a shared one once; buffers are no parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, in_channels: int, image_size: Size) -> int:
    """2 × multiply-adds of convolutions, matrix products and attention for one image; nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        meta_forward(model, in_channels, image_size)
    return int(counter.get_total_flops())


# ---- bytes of the weights' file ------------------------------------------------------------------


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The whole state, buffers too; a shared tensor once, under its first name."""
    state: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        state.setdefault(id(tensor), (name, tensor))
    return dict(state.values())


def weights_bytes(model: nn.Module) -> int:
    """Size of the safetensors file of the whole state, floats as fp32. Nothing is written: it is known by its
    format for a network on the meta device as well.

    The format: 8 bytes of length, a JSON header padded to 8 bytes, the tensors end to end, wider types first.
    """
    entries = [
        (torch.float32 if t.is_floating_point() else t.dtype, name, list(t.shape), t.numel())
        for name, t in state_of(model).items()
    ]
    header: dict[str, Any] = {}
    offset = 0
    for dtype, name, shape, count in sorted(entries, key=lambda e: (-e[0].itemsize, e[1])):
        end = offset + count * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + offset


def serialised_bytes(state: dict[str, Tensor]) -> int:
    return len(safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()}))


def _halved(model: nn.Module) -> dict[str, Tensor]:
    state = {name: tensor.detach().cpu() for name, tensor in state_of(model).items()}
    return {name: t.half() if t.is_floating_point() else t for name, t in state.items()}


def quantised(model: nn.Module) -> dict[str, Tensor]:
    """The state with `name` int8 and `name.scale` fp32 for each weight w of a convolution or linear layer:

        w ≈ q · s,  s = max|w| / 127 per output channel,  q = round(w / s)

    Everything else (biases, norms, embeddings) stays as it is.
    """
    axes = _quantisable(model)
    state: dict[str, Tensor] = {}
    for name, tensor in state_of(model).items():
        weight = tensor.detach().cpu()
        if id(tensor) not in axes:
            state[name] = weight.float() if weight.is_floating_point() else weight
            continue
        others = [axis for axis in range(weight.ndim) if axis != axes[id(tensor)]]
        scale = weight.float().abs().amax(others, keepdim=True) / 127
        state[name] = (weight.float() / scale.clamp_min(1e-30)).round().to(torch.int8)
        state[f"{name}.scale"] = scale.flatten()
    return state


def _quantisable(model: nn.Module) -> dict[int, int]:
    """id of each weight to quantise → its axis of output channels."""
    axes: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            axes[id(module.weight)] = int(isinstance(module, _ConvTransposeNd))
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            axes[id(module.in_proj_weight)] = 0  # three linear layers in one
    return axes


# ---- memory --------------------------------------------------------------------------------------


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that operations have made and that are still alive, and their peak.

    What a kernel takes for itself while it runs (a convolution's workspace) is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_memory(model: nn.Module, image: Image, device: torch.device, batch: int = 1) -> int:
    """Bytes of weights, input and what a forward holds at its fullest moment.

    CUDA: what the allocator gave out. Elsewhere: the live tensors, counted operation by operation.
    """
    own = sum(t.numel() * t.element_size() for t in state_of(model).values())
    with evaluating(model), torch.no_grad():
        x = _images(batch, image, device)
        held = own + x.numel() * x.element_size()
        if device.type == "cuda":
            synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before: int = torch.cuda.memory_allocated(device)
            model(x)
            synchronize(device)
            peak: int = torch.cuda.max_memory_allocated(device)
            return held + peak - before
        live = _LiveTensors()
        with live:
            model(x)
        return held + live.peak


# ---- time ----------------------------------------------------------------------------------------


def latency(
    model: nn.Module, image: Image, device: torch.device, should_stop: Callable[[], bool] = never
) -> tuple[float, float]:
    """(p50, p95) in milliseconds of a forward of one image in evaluation mode; takes less than a second."""
    with evaluating(model), torch.inference_mode():
        return _percentiles(_timings(_forward(model, _images(1, image, device), device, should_stop)))


def throughput(
    model: nn.Module, image: Image, device: torch.device, should_stop: Callable[[], bool] = never
) -> tuple[float, int]:
    """(samples per second, batch) at the power of two that gets most through.

    Batches double until one would not fit the time or the memory, or two in a row are no faster.
    """
    best, best_batch, slower, batch = 0.0, 1, 0, 1
    deadline = time.perf_counter() + MEASURE_SECONDS
    with evaluating(model), torch.inference_mode():
        while batch <= LARGEST_BATCH and slower < 2:
            try:
                once = _forward(model, _images(batch, image, device), device, should_stop)
                seconds = min(once() for _ in range(3))  # the first warms up
            except torch.OutOfMemoryError:
                break
            slower = slower + 1 if batch / seconds <= best else 0
            if not slower:
                best, best_batch = batch / seconds, batch
            if time.perf_counter() + 6 * seconds > deadline:
                break  # the next takes twice as long, three times
            batch *= 2
    return best, best_batch


def _images(batch: int, image: Image, device: torch.device) -> Tensor:
    return torch.rand(batch, *image, device=device).contiguous(memory_format=memory_format(device))


def _forward(
    model: nn.Module, x: Tensor, device: torch.device, should_stop: Callable[[], bool]
) -> Callable[[], float]:
    """Seconds of a forward. The device is drained before and after, so that nothing is queued."""

    def once() -> float:
        if should_stop():
            raise StopRequested
        synchronize(device)
        start = time.perf_counter()
        model(x)
        synchronize(device)
        return time.perf_counter() - start

    return once


def _timings(once: Callable[[], float]) -> list[float]:
    """Seconds of each forward, after a warm-up."""
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
