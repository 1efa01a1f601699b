"""Where images come from: an uploaded archive or a folder on the server, told apart by content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from worker.distill.data._container import Container, Entry
from worker.distill.data._tar import UNPACKERS, Tar
from worker.distill.data._zip import END, Zip, tail_of
from worker.distill.spec import SpecError

OTHERS = {b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7-Zip archive", b"\x28\xb5\x2f\xfd": "a Zstandard file"}


def open_source(path: str | Path) -> Container:
    """A folder, a zip or a tar (gz, bz2, xz), told apart by content."""
    path = Path(path)
    if path.is_dir():
        return Folder(path)
    try:
        with open(path, "rb") as file:
            head, tail = file.read(512), tail_of(file)
    except OSError as error:
        raise SpecError("source", str(path), f"it cannot be read ({error.strerror}).") from error
    if head.startswith(b"PK") or END in tail:
        return Zip(path)
    if head[257:262] == b"ustar" or any(head.startswith(magic) for magic in UNPACKERS):
        return Tar(path)
    what = next(
        (name for magic, name in OTHERS.items() if head.startswith(magic)), "empty" if not head else ""
    )
    problem = f"it is {what}, not a zip or tar archive." if what else "it is neither a zip nor a tar archive."
    raise SpecError("source", path.name, problem, "Upload a .zip or .tar.gz of the image folders.")


class Folder(Container):
    """A folder on the server. Links are not followed: what lies outside was not offered."""

    def __init__(self, path: Path) -> None:
        super().__init__(label=str(path))
        links = 0
        for entry in self._walk(path):
            name = os.path.relpath(entry.path, path)
            if entry.is_symlink():
                links += 1
            elif entry.is_dir() or entry.is_file():
                size = 0 if entry.is_dir() else entry.stat().st_size
                self.admit(self.decoded(name.replace(os.sep, "/")), size, entry.path, is_dir=entry.is_dir())
        if self.guessed:
            self.warnings.append(f"{self.guessed} names are not UTF-8 and were guessed.")
        if links:
            self.warnings.append(f"{links} links in {path} were not followed.")

    def read(self, entry: Entry) -> bytes:
        try:
            with open(entry.handle, "rb") as file:
                return self.unpack(file, entry)
        except OSError as error:
            raise self.refuse(f"{entry.name} cannot be read ({error.strerror}).", "") from error

    def _walk(self, folder: Path | str) -> Iterator[os.DirEntry[str]]:
        try:
            children = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError as error:
            raise self.refuse(f"{folder} cannot be read ({error.strerror}).", "") from error
        for child in children:
            yield child
            if child.is_dir(follow_symlinks=False) and not child.name.startswith("."):
                yield from self._walk(child.path)
