"""Zip archives from outside. All that the archive declares is checked before a byte is unpacked."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

from worker.distill.data._container import (
    MAX_ENTRIES,
    MAX_NAME,
    MAX_RATIO,
    RATIO_FROM,
    Container,
    Entry,
    printable,
)

DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, NotImplementedError, RuntimeError)
END = b"PK\x05\x06"


class Zip(Container):
    # data descriptor, UTF-8 names, and the two bits that tell how hard deflate tried
    FLAGS = 0x8 | 0x800 | 0x2 | 0x4

    def __init__(self, path: Path) -> None:
        super().__init__(label=path.name)
        self._refuse_crowds(path)
        try:
            self._file = self._stack.enter_context(zipfile.ZipFile(path))
        except (*DAMAGE, ValueError) as error:
            raise self.refuse("the zip archive is cut off or damaged.", "Upload it again.") from error
        with self._stack as stack:
            infos = self._file.infolist()
            self._check_layout(infos)
            for info in infos:
                self._check(info)
                self.admit(info.orig_filename, info.file_size, info, is_dir=info.is_dir())
            self.check_duplicates()
            self._warn(infos)
            self._stack = stack.pop_all()  # kept open only if all is well

    def read(self, entry: Entry) -> bytes:
        try:
            with self._file.open(entry.handle) as file:
                return self.unpack(file, entry)
        except DAMAGE as error:
            raise self.refuse(f"{entry.name} is damaged inside the archive.", "Make it again.") from error

    def _refuse_crowds(self, path: Path) -> None:
        """The number of entries from the end record, before zipfile makes an object of each."""
        with open(path, "rb") as file:
            tail = tail_of(file)
            at = tail.rfind(END)
            if at < 0 or len(tail) < at + 22:
                raise self.refuse("the zip archive is cut off: its end is missing.", "Upload it again.")
            count, size = struct.unpack_from("<HI", tail, at + 10)
            locator = tail[max(at - 20, 0) : at]
            if locator.startswith(b"PK\x06\x07"):
                file.seek(struct.unpack_from("<Q", locator, 8)[0])
                record = file.read(56)
                if len(record) == 56 and record.startswith(b"PK\x06\x06"):
                    count, size = struct.unpack_from("<QQ", record, 32)
        if count > MAX_ENTRIES or size > MAX_ENTRIES * (46 + MAX_NAME):
            problem = f"it claims {count:,} entries, allowed are {MAX_ENTRIES:,}."
            raise self.refuse(problem, "Split the dataset.")

    def _check_layout(self, infos: list[zipfile.ZipInfo]) -> None:
        """Entries that share packed bytes unpack to far more than was uploaded."""
        end = 0
        for info in sorted(infos, key=lambda i: i.header_offset):
            if info.header_offset < end:
                raise self.refuse(f"{printable(info.orig_filename)} overlaps another entry.")
            end = info.header_offset + 30 + len(info.orig_filename) + info.compress_size

    def _check(self, info: zipfile.ZipInfo) -> None:
        name, mode = printable(info.orig_filename), info.external_attr >> 16
        if info.flag_bits & 0x1:
            fix = "Make it again without a password."
            raise self.refuse(f"{name} is password-protected.", fix)
        if info.flag_bits & ~self.FLAGS:
            raise self.refuse(f"{name} uses an unusual zip feature (flags {info.flag_bits:#06x}).")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self.refuse(f"{name} is packed by an unusual method ({info.compress_type}).")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise self.refuse(f"{name} is a link or a device, not a file.")
        if mode & (stat.S_ISUID | stat.S_ISGID):
            raise self.refuse(f"{name} is marked setuid or setgid.")
        if info.file_size > RATIO_FROM and info.file_size > MAX_RATIO * info.compress_size:
            raise self.refuse(f"{name} would unpack to {info.file_size:,} from {info.compress_size:,} bytes.")

    def _warn(self, infos: list[zipfile.ZipInfo]) -> None:
        start = min((info.header_offset for info in infos), default=0)
        if start:
            self.warnings.append(f"{start:,} bytes before the first entry of {self.label} were ignored.")
        guessed = [i for i in infos if not i.flag_bits & 0x800 and not i.orig_filename.isascii()]
        if guessed:
            example = printable(guessed[0].orig_filename)
            self.warnings.append(f"{len(guessed)} names are not marked as UTF-8 and were guessed: {example}.")


def tail_of(file: IO[bytes]) -> bytes:
    """The last bytes, where a zip's end record with the longest comment still fits."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 65_557 - 20, 0))
    return file.read()
