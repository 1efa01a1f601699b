"""One run over several processes: each computes its share of every batch, and all take the same step.

The objective is reckoned on the whole batch in every process, from outputs gathered with their gradients, so
that methods which relate samples to each other mean the same as in one process; batch norm reckons its
statistics over the whole batch too. Gradients are then averaged. gloo on CPUs, nccl on CUDA.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor, nn

from worker.distill.errors import PassedOn
from worker.distill.events import Failed, parse
from worker.distill.spec import RunSpec, SpecError

GRACE = 30.0  # seconds for a follower to end by itself
LOOK = 2.0  # seconds to wait for one that may be the cause of an error
PATIENCE = timedelta(days=1)  # for each other: one may have a long pass of the teachers to do
RANK, MEETING = "KDWEB_RANK", "KDWEB_MEETING_POINT"


class Group:
    """The processes of a run. Of one process alone every operation is the identity."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this process reports and writes files."""
        return self.rank == 0

    def mine(self, x: Tensor) -> Tensor:
        """This process's rows of a batch; the shares differ by one row at most."""
        return x if self.size == 1 else x.tensor_split(self.size)[self.rank]

    def whole(self, x: Tensor, rows: int) -> Tensor:
        """The batch's `rows` rows from everybody's share of them, with gradients."""
        if self.size == 1:
            return x
        most = -(-rows // self.size)
        padding = x.new_zeros(most - len(x), *x.shape[1:])  # collectives want one shape
        parts = _gathered(torch.cat([x, padding]), self.rank, self.size)
        sizes = [len(part) for part in torch.empty(rows).tensor_split(self.size)]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def average(self, parameters: Iterable[Tensor]) -> None:
        """Every gradient becomes its mean over the processes, in one exchange.

        Each process differentiates the whole batch's objective, and gathering adds the processes' gradients
        up: the mean is the gradient that one process alone would have.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient) / self.size)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set anywhere: all processes stop at the same step."""
        if self.size == 1:
            return flag
        asked = torch.tensor([flag], dtype=torch.int32, device=_device())
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked.item())

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader goes through the block before the others begin: it makes the files that they read."""
        if self.size > 1 and not self.leads:
            dist.barrier()
        yield
        if self.size > 1 and self.leads:
            dist.barrier()


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


class _Summed(torch.autograd.Function):
    """The sum over the processes. Everybody's result depends on everybody's input: gradients sum up too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Gathered(torch.autograd.Function):
    """Every process's tensor, stacked by rank: (size, B, …)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank = rank
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size)]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.rank], None, None


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _Summed.apply(x)  # type: ignore[no-untyped-call]
    return total


def _gathered(x: Tensor, rank: int, size: int) -> Tensor:
    parts: Tensor = _Gathered.apply(x, rank, size)  # type: ignore[no-untyped-call]
    return parts


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the whole batch, all processes' shares together. Same state as what it replaces."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        dims = [d for d in range(input.ndim) if d != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        x = input.float()
        local = x.new_tensor([x.numel() / x.shape[1]])
        count = _summed(local)
        mean = _summed(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = _summed((centred**2).sum(dims)) / count
        self._track(mean, variance * count / (count - 1).clamp_min(1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = normal.to(input.dtype)
        return result

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def share_batch_norm(model: nn.Module) -> None:
    """Replace every batch norm in a network, parameters and buffers kept."""
    for name, child in model.named_children():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm) or isinstance(child, SharedBatchNorm):
            share_batch_norm(child)
            continue
        shared = SharedBatchNorm(
            child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
        )
        shared.weight, shared.bias = child.weight, child.bias
        shared.running_mean, shared.running_var = child.running_mean, child.running_var
        shared.num_batches_tracked = child.num_batches_tracked
        setattr(model, name, shared.train(child.training))


# ---- starting ------------------------------------------------------------------------------------


@contextmanager
def together(spec: RunSpec, device: torch.device) -> Iterator[Group]:
    """The group of a run: alone, or with followers that this process starts, or as such a follower."""
    if spec.processes == 1:
        yield Group()
    elif RANK in os.environ:
        with _joined(int(os.environ[RANK]), spec.processes, os.environ[MEETING], device) as group:
            yield group
    else:
        if device.type == "cuda" and spec.processes > torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise SpecError(
                "processes", spec.processes, f"this machine has {found} GPUs.", f"Use {found} or fewer."
            )
        with tempfile.TemporaryDirectory() as folder:
            meeting = str(Path(folder) / "meeting")
            with _followers(spec, meeting) as check, _joined(0, spec.processes, meeting, device) as group:
                try:
                    yield group
                except RuntimeError as error:
                    check(error)
                    raise


@contextmanager
def _joined(rank: int, size: int, meeting: str, device: torch.device) -> Iterator[Group]:
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, threads // size))
    else:
        torch.cuda.set_device(rank)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if rank:
        _mark(meeting, rank).touch()
    dist.init_process_group(
        backend, init_method=f"file://{meeting}", timeout=PATIENCE, rank=rank, world_size=size
    )
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def _mark(meeting: str, rank: int) -> Path:
    """A file that says that a follower is about to join."""
    return Path(f"{meeting}.{rank}")


def _words(meeting: str, rank: int) -> Path:
    """The file of a follower's events: few, and the last says why it failed."""
    return Path(f"{meeting}.{rank}.events")


def _ended(rank: int, size: int, code: int, meeting: str) -> Exception:
    """Why a follower has ended, in its own words if it had any."""
    which = f"process {rank} of {size}"
    lines = _words(meeting, rank).read_bytes().splitlines()
    with suppress(IndexError, ValidationError):
        said = parse(lines[-1])
        if isinstance(said, Failed):
            return PassedOn(which, said)
    return RuntimeError(f"{which} ended with code {code}")


def _gather(children: Sequence[subprocess.Popen[str]], meeting: str) -> None:
    """Wait until every follower is there. RuntimeError if one has ended: joining would wait for it."""
    for rank, child in enumerate(children, start=1):
        while not _mark(meeting, rank).exists():
            if child.poll() is not None:
                raise _ended(rank, len(children) + 1, child.returncode, meeting)
            time.sleep(0.05)


@contextmanager
def _followers(spec: RunSpec, meeting: str) -> Iterator[Callable[[RuntimeError], None]]:
    """The other processes; given is a function that says which of them a lost connection is owed to."""
    children = []
    for rank in range(1, spec.processes):
        environment = os.environ | {RANK: str(rank), MEETING: meeting}
        command = [sys.executable, "-m", "worker.distill", "train", "-"]
        with open(_words(meeting, rank), "wb") as words:
            child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=words, text=True)
        children.append(child)
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it ended at once: _gather says so
            child.stdin.write(spec.model_dump_json())
            child.stdin.close()

    def check(error: RuntimeError) -> None:
        end = time.monotonic() + LOOK  # its connection may be gone a moment before it is
        while all(child.poll() in (None, 0) for child in children) and time.monotonic() < end:
            time.sleep(0.05)
        for rank, child in enumerate(children, start=1):
            if child.poll() not in (None, 0):
                raise _ended(rank, len(children) + 1, child.returncode, meeting) from error

    try:
        _gather(children, meeting)
        yield check
    except BaseException:
        for child in children:  # they may wait for this process, and have nothing to save
            child.kill()
        raise
    finally:
        for child in children:
            try:
                child.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
