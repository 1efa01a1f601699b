"""The teachers' outputs of every sample under one view: how they are stored and looked up.

A folder holds a .npy an output, the rows' scales, and manifest.json with shapes and hashes. A row is stored
in half precision over a power of two of its own that puts its largest value in [2¹⁴, 2¹⁵). So nothing
overflows, small features keep their eleven bits, and everything else rounds as plain half precision does.
"""

from __future__ import annotations

import hashlib
import io
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

ON_DEVICE = 128 * 2**20  # bytes of an output up to which it is copied to the device
MANIFEST, SCALES = "manifest.json", "scales.npy"
_TOP = 15  # scaled rows stay below 2^15, half of what half precision can hold

Outputs = dict[str, Tensor]
Halves = NDArray[np.float16]
Scales = NDArray[np.float32]
Block = dict[str, tuple[Halves, Scales]]


def pack(value: Tensor) -> tuple[Halves, Scales]:
    """(B, …) → rows (B, D) and scales (B,), value ≈ scale · row; a scale is a power of two, hence exact."""
    rows = value.detach().float().reshape(len(value), -1).cpu().numpy()
    largest = np.abs(rows).max(1, where=np.isfinite(rows), initial=0)
    exponents = np.frexp(largest)[1]
    # Below 2^-100 the scale itself would leave float32; what is that small may round to nothing.
    scales = np.ldexp(np.float32(1), np.maximum(exponents, -100) - _TOP)
    return (rows / scales[:, None]).astype("<f2"), scales


# ---- looking up ----------------------------------------------------------------------------------


@dataclass
class Usage:
    """What a view has cost and been good for in this run."""

    rows: int = 0  # served
    paid: int = 0  # computed in this run
    rate: float = 0.0  # seconds a row that computing took, in this run or in the one that stored it

    @property
    def saved(self) -> float:
        return self.rate * max(0, self.rows - self.paid)


class Column:
    """One output of every sample: (N, …) in half precision, in memory or as a map of its file."""

    def __init__(self, halves: Halves, scales: Scales, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.here = torch.from_numpy(halves), torch.from_numpy(scales)[:, None]  # (N, D), (N, 1)
        self.copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def rows(self, index: Tensor) -> Tensor:
        """(B,) → (B, …) float32 on the index's device. Only a column too large for it makes it wait."""
        halves, scales = self._near(index.device)
        at = index.to(halves.device)
        found = halves.index_select(0, at).to(index.device).float()
        return found.mul_(scales.index_select(0, at).to(index.device)).view(-1, *self.shape)

    def _near(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device.type == "cpu" or self.here[0].nbytes > ON_DEVICE:
            return self.here
        if device not in self.copies:
            self.copies[device] = self.here[0].to(device), self.here[1].to(device)
        return self.copies[device]


class Table:
    """The outputs of every sample under one view."""

    def __init__(self, columns: dict[str, Column], usage: Usage) -> None:
        self.columns, self.usage = columns, usage

    def rows(self, index: Tensor) -> Outputs:
        """The outputs of the samples `index` (B,), float32 on its device."""
        self.usage.rows += len(index)
        return {name: column.rows(index) for name, column in self.columns.items()}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for column in self.columns.values() for tensor in column.here)


# ---- files ---------------------------------------------------------------------------------------


class Stored(BaseModel):
    """A file of a view."""

    file: str
    shape: tuple[int, ...]
    sha256: str


class Manifest(BaseModel):
    """What a view's folder holds."""

    format: Literal[1] = 1
    seconds: float  # that computing it took
    outputs: dict[str, Stored]
    scales: Stored


def open_columns(folder: Path, manifest: Manifest, n: int, *, hashed: bool) -> dict[str, Column]:
    """Map a view's files, compared with their hashes if asked to. Raises OSError, ValueError on damage."""
    scales = _mapped(folder, manifest.scales, "<f4", hashed)
    columns = {}
    for row, (name, stored) in enumerate(manifest.outputs.items()):
        if stored.shape[0] != n:
            raise ValueError(f"{stored.file} has {stored.shape[0]} samples instead of {n}")
        halves = _mapped(folder, stored, "<f2", hashed).reshape(n, -1)
        columns[name] = Column(halves, scales[row], stored.shape[1:])
    return columns


def _mapped(folder: Path, stored: Stored, dtype: str, hashed: bool) -> NDArray[Any]:
    path = folder / Path(stored.file).name
    if hashed and file_sha256(path) != stored.sha256:
        raise ValueError(f"the hash of {path.name} differs")
    # c: copy on write. Nobody writes, but torch takes no read-only array.
    array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    if array.shape != stored.shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{path.name} is {array.dtype} {array.shape} instead of {dtype} {stored.shape}")
    return array


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class File:
    """A .npy file of known shape that grows block by block."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.name, self.shape, self.dtype = path.name, shape, dtype
        self.digest = hashlib.sha256()
        # Unbuffered: when the disk is full, every block before this one has been written.
        self.file = open(path, "x+b", buffering=0)  # noqa: SIM115 - closed by the pass
        header = io.BytesIO()
        head = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, head)
        self.start = header.tell()
        self.write(header.getvalue())

    def write(self, data: bytes | memoryview) -> None:
        write_all(self.file, data)
        self.digest.update(data)

    def read(self, rows: int) -> NDArray[Any]:
        """(rows, D) of what has been written; even when the file has lost its name."""
        self.file.seek(self.start)
        return np.fromfile(self.file, self.dtype, rows * math.prod(self.shape[1:])).reshape(rows, -1)

    def stored(self) -> Stored:
        return Stored(file=self.name, shape=self.shape, sha256=self.digest.hexdigest())


def write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    left = memoryview(data).cast("B")
    while left:
        left = left[file.write(left) :]


# ---- computing -----------------------------------------------------------------------------------


class Pass:
    """One ascending pass over the samples, kept aside: in files, or in memory if these cannot be written."""

    def __init__(self, n: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self.n, self.shapes = n, shapes
        self.scales = {name: np.empty(n, np.float32) for name in shapes}
        self.halves: dict[str, Halves] | None = None  # in memory
        self.files: list[File] = []  # or on disk, in the order of the outputs
        self.folder: Path | None = None

    @property
    def nbytes(self) -> int:
        return sum(self.n * (2 * math.prod(shape) + 4) for shape in self.shapes.values())

    def create(self, folder: Path) -> None:
        """Raises OSError when the files cannot be written."""
        self.folder = folder
        folder.mkdir(parents=True)
        for k, shape in enumerate(self.shapes.values()):
            # An output's name holds a module's path, which may be no file's name.
            self.files.append(File(folder / f"{k}.npy", (self.n, *shape), "<f2"))

    def append(self, start: int, block: Block) -> None:
        """Raises OSError when the files cannot be written."""
        for k, name in enumerate(self.shapes):
            halves, scales = block[name]
            here = slice(start, start + len(halves))
            self.scales[name][here] = scales
            if self.halves is not None:
                self.halves[name][here] = halves
            else:
                self.files[k].write(halves.data)

    def complete(self, seconds: float) -> Manifest:
        """Write what is still missing in the folder. Raises OSError.

        Nothing is forced to disk: after a power cut the hashes tell.
        """
        assert self.folder is not None
        scales = np.stack([*self.scales.values()])  # (outputs, N)
        self.files.append(File(self.folder / SCALES, scales.shape, "<f4"))
        self.files[-1].write(scales.data)
        *outputs, last = [file.stored() for file in self.files]
        named = dict(zip(self.shapes, outputs, strict=True))
        manifest = Manifest(seconds=seconds, outputs=named, scales=last)
        with open(self.folder / MANIFEST, "xb", buffering=0) as file:
            write_all(file, manifest.model_dump_json(indent=1).encode())
        return manifest

    def to_memory(self, done: int) -> None:
        """Go on in memory, from the `done` samples whose rows are in the files."""
        self.halves = {}
        for k, (name, shape) in enumerate(self.shapes.items()):
            self.halves[name] = np.empty((self.n, math.prod(shape)), np.float16)
            if done:
                self.halves[name][:done] = self.files[k].read(done)
        self.discard()

    def columns(self) -> dict[str, Column]:
        """Of a pass in memory."""
        assert self.halves is not None
        return {
            name: Column(self.halves[name], self.scales[name], shape) for name, shape in self.shapes.items()
        }

    def discard(self) -> None:
        """Nothing half-written stays."""
        for file in self.files:
            file.file.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
