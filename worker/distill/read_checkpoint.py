"""Checkpoint files from outside, read without trusting a byte of them.

What a file is, its content says, never its name. Each kind is checked by code of ours before a library opens
it, and pickles only by torch's restricted unpickler, after our own list of what may stand in them.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

MAX_HEADER = 100_000_000  # the format's own limit
MAX_TENSORS = 100_000
MAX_PICKLE = 64 << 20
MAX_OPCODES = 5_000_000
PIECE = 1 << 20
SAVE_AGAIN = 'Save only the weights: torch.save(model.state_dict(), "weights.pt"), or as safetensors.'

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
GLOBALS = {
    "collections OrderedDict",
    "collections Counter",  # MultiStepLR keeps its milestones in one
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {name}Storage" for name in STORAGES),
}
# What torch.save writes and torch's restricted unpickler knows.
_OPCODES = """
    PROTO STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT LONG_BINPUT BINGET
    LONG_BINGET BINUNICODE SHORT_BINSTRING BININT BININT1 BININT2 LONG1 NONE NEWTRUE NEWFALSE BINFLOAT SETITEM
    SETITEMS APPEND APPENDS REDUCE BUILD BINPERSID GLOBAL
"""
OPCODES = frozenset(_OPCODES.split())
TORCH_ENTRIES = re.compile(
    r"data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+"
)
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
OTHERS = {
    b"\x89HDF": "an HDF5 (Keras) file",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a Git LFS pointer; the weights themselves are not in it",
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"<": "a web page or XML file",
    b"\x80": "a pickle that torch.save did not write",
}


class Refused(Exception):
    """The file is not read. The message is a clause about the file; `fix` says what to do."""

    def __init__(self, problem: str, fix: str = SAVE_AGAIN) -> None:
        self.fix = fix
        super().__init__(problem)


def read_checkpoint(path: Path) -> Any:
    """What torch.load would give for a .pt file, or a dict of tensors. Refused says why not."""
    with open(path, "rb") as file:
        head, size = file.read(64), file.seek(0, 2)
        file.seek(0)
        if len(head) > 8 and head[8:9] == b"{":
            check_safetensors(file, size)
            return _load_safetensors(path)
        if head.startswith(b"PK\x03\x04"):
            check_torch_zip(file)
            return _torch_load(file)
        if head.startswith(LEGACY_MAGIC):
            check_legacy(file)
            return _torch_load(file)
    if not head.strip(b"\0"):
        raise Refused("is empty" if not head else "holds only zeros", "Upload it again.")
    what = next((name for magic, name in OTHERS.items() if head.startswith(magic)), "")
    raise Refused(f"is {what}" if what else "is neither a safetensors file nor a PyTorch checkpoint")


# ---- safetensors ---------------------------------------------------------------------------------


def check_safetensors(file: IO[bytes], size: int) -> None:
    """u64 header length, JSON header, then the tensors end to end without gap or overlap."""
    (length,) = struct.unpack("<Q", file.read(8))
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise Refused(f"claims a header of {length:,} bytes in a file of {size:,}", "Upload it again.")
    try:
        header = json.loads(
            file.read(length).decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise Refused(f"has a safetensors header that is not proper JSON ({_short(error)})") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Refused("has safetensors metadata that are not text")
    if len(header) > MAX_TENSORS:
        raise Refused(f"has {len(header):,} tensors; allowed are {MAX_TENSORS:,}")
    spans = sorted(_span(name, entry) for name, entry in header.items())
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise Refused(f"has a gap or an overlap before the tensor {name!r}")
        position = end
    if position != size - 8 - length:
        raise Refused(f"should hold {position:,} bytes of tensors but holds {size - 8 - length:,}")


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"describes the tensor {_short(name)!r} wrongly")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in ITEM_BYTES:
        known = ", ".join(ITEM_BYTES)
        raise Refused(f"has the tensor {_short(name)!r} of type {_short(dtype)}; read are {known}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise Refused(f"gives the tensor {_short(name)!r} an impossible shape or place")
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise Refused(f"gives the tensor {_short(name)!r} a place that does not fit its shape")
    return begin, end, name


def _naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise Refused(f"is not a proper safetensors file ({_short(error)})") from error


# ---- torch.save's zip ----------------------------------------------------------------------------


def check_torch_zip(file: IO[bytes]) -> None:
    """Only what torch.save writes: stored entries under one folder, each once, every checksum right."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            _check_entries(infos)
            if archive.comment:
                raise Refused("has bytes after its last entry")
            for info in infos:
                with archive.open(info) as entry:
                    while entry.read(PIECE):  # torch does not check the CRC; this does
                        pass
            pickle = next(i for i in infos if i.filename.endswith("/data.pkl"))
            check_pickle(archive.read(pickle))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise Refused(f"is cut off or damaged ({_short(error)})", "Upload it again.") from error
    file.seek(0)


def _check_entries(infos: list[zipfile.ZipInfo]) -> None:
    names = [info.orig_filename for info in infos]
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise Refused("is a TorchScript program, not a state dict")
    if "data.pkl" not in inner:
        raise Refused("is a zip archive that torch.save did not write")
    if len(set(names)) < len(names) or len({name.partition("/")[0] for name in names}) > 1:
        raise Refused("has entries of the same name, or in several folders")
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        name = info.orig_filename.partition("/")[2]
        if not TORCH_ENTRIES.fullmatch(name):
            raise Refused(f"has the entry {_short(info.orig_filename)!r}, which torch.save does not write")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Refused(f"has the entry {name} compressed, which torch.save does not do")
        if info.flag_bits & ~0x808 or stat.S_ISLNK(info.external_attr >> 16):
            raise Refused(f"has the entry {name} encrypted or otherwise unusual")
        if info.header_offset < end or (end == 0 and info.header_offset):
            raise Refused(f"has bytes before, or shared with, the entry {name}")
        if name == "data.pkl" and info.file_size > MAX_PICKLE:
            raise Refused(f"has a pickle of {info.file_size:,} bytes; allowed are {MAX_PICKLE:,}")
        end = info.header_offset + 30 + len(info.orig_filename) + info.compress_size
    if len(infos) > MAX_TENSORS:
        raise Refused(f"has {len(infos):,} tensors; allowed are {MAX_TENSORS:,}")


# ---- pickles -------------------------------------------------------------------------------------


def check_legacy(file: IO[bytes]) -> None:
    """torch.save before 1.6: five pickles (magic, version, system, object, storage keys), then storages."""
    for _ in range(5):
        _check_opcodes(pickletools.genops(file))
    file.seek(0)


def check_pickle(data: bytes) -> None:
    stream = io.BytesIO(data)
    _check_opcodes(pickletools.genops(stream))
    if stream.read(1):
        raise Refused("has bytes after its pickle")


def _check_opcodes(operations: Iterable[tuple[Any, Any, Any]]) -> None:
    """Only opcodes that build plain containers, and only the names that rebuild plain tensors."""
    try:
        for number, (opcode, argument, _) in enumerate(operations):
            if number > MAX_OPCODES:
                raise Refused(f"has a pickle of more than {MAX_OPCODES:,} steps")
            if opcode.name == "GLOBAL" and argument not in GLOBALS:
                name = _short(str(argument).replace(" ", "."))
                kind = "a sparse tensor" if "sparse" in name else f"an object of another kind ({name})"
                kind = "complex numbers" if "Complex" in name else kind
                raise Refused(f"holds {kind}, which is not read")
            if opcode.name not in OPCODES:
                raise Refused(f"has a pickle with the step {opcode.name}, which torch.save does not write")
    except (ValueError, struct.error, OverflowError, IndexError, UnicodeError) as error:
        raise Refused(f"has a damaged pickle ({_short(error)})", "Upload it again.") from error


def _torch_load(file: IO[bytes]) -> Any:
    """A file object, never a path: torch.load looks at a path's ending."""
    file.seek(0)
    try:
        return torch.load(file, weights_only=True, map_location="cpu", mmap=False)
    except MemoryError:
        raise
    except Exception as error:  # a bad file makes it raise nearly anything
        reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
        raise Refused(f"is not a proper checkpoint ({_short(reason)})") from error


def _short(value: object) -> str:
    """One line, bounded, nothing invisible."""
    text = " ".join(str(value).split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 120 else text[:119] + "…"
