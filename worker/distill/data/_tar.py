"""Tar archives from outside, plain or packed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from worker.distill.data._container import (
    MAX_ENTRIES,
    MAX_RATIO,
    MAX_TOTAL_BYTES,
    RATIO_FROM,
    Container,
    Entry,
    printable,
)
from worker.distill.spec import SpecError

PIECE = 1 << 20
UNPACKERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


class Tar(Container):
    def __init__(self, path: Path) -> None:
        super().__init__(label=path.name)
        with self._stack as stack:
            self._plain = stack.enter_context(self._open_plain(path))
            try:
                # Headers are 512 bytes, extended ones a little more: the cap keeps a lying one small.
                archive = tarfile.TarFile(fileobj=cast(IO[bytes], _Capped(self._plain)), encoding="utf-8")
                number = 0
                while (member := archive.next()) is not None:
                    number += 1
                    if number > MAX_ENTRIES:
                        raise self.refuse(f"it has more than {MAX_ENTRIES:,} entries.", "Split the dataset.")
                    self._check(member)
                    name = self.decoded(member.name)
                    size = member.size if member.isreg() else 0
                    self.admit(name, size, member.offset_data, is_dir=member.isdir())
                    archive.members = []  # type: ignore[attr-defined]  # tarfile keeps them all
            except (tarfile.TarError, EOFError, OSError, ValueError) as error:
                if isinstance(error, SpecError):
                    raise
                problem = f"the tar archive is cut off or damaged ({error})."
                raise self.refuse(problem, "Upload it again.") from error
            self.check_duplicates()
            if self.guessed:
                self.warnings.append(f"{self.guessed} names are not UTF-8 and were guessed.")
            self._stack = stack.pop_all()

    def read(self, entry: Entry) -> bytes:
        self._plain.seek(entry.handle)
        content = self._plain.read(entry.size)
        if len(content) != entry.size:
            raise self.refuse(f"{entry.name} is cut off.", "Upload the archive again.")
        return content

    def _open_plain(self, path: Path) -> IO[bytes]:
        """The tar itself; a packed one is unpacked to an unnamed temporary file."""
        raw = open(path, "rb")  # noqa: SIM115 - kept open as long as the container
        unpacker = _unpacker(raw)
        if unpacker is None:
            return raw
        plain = tempfile.TemporaryFile()  # noqa: SIM115
        with raw:
            for piece in self._pieces(unpacker, os.fstat(raw.fileno()).st_size):
                plain.write(piece)
        plain.seek(0)
        if _unpacker(plain) is not None:
            raise self.refuse("it is packed twice.", "Unpack it once and upload the result.")
        return plain

    def _pieces(self, unpacker: IO[bytes], packed: int) -> Iterator[bytes]:
        """The unpacked content, counted on the way."""
        done = 0
        try:
            while piece := unpacker.read(PIECE):
                done += len(piece)
                if done > MAX_TOTAL_BYTES or (done > RATIO_FROM and done > MAX_RATIO * packed):
                    raise self.refuse(f"it unpacks to more than {done:,} from {packed:,} bytes.")
                yield piece
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise self.refuse("the archive is cut off or damaged.", "Upload it again.") from error

    def _check(self, member: tarfile.TarInfo) -> None:
        name = printable(member.name)
        if member.size < 0:
            raise self.refuse(f"{name} claims a negative size.")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise self.refuse(f"{name} is a link or a device, not a file.")
        if member.mode & (stat.S_ISUID | stat.S_ISGID) and member.isreg():
            raise self.refuse(f"{name} is marked setuid or setgid.")


class _Capped:
    """A file whose single reads stay small."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.name = ""
        self.mode = "rb"
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= PIECE:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _unpacker(file: IO[bytes]) -> IO[bytes] | None:
    head = file.read(6)
    file.seek(0)
    for magic, unpacker in UNPACKERS.items():
        if head.startswith(magic):
            return cast(IO[bytes], unpacker(file))
    return None
