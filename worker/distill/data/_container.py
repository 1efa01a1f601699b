"""What an archive and a folder from outside have in common: a list of checked entries, and bounded reading.

Nothing is ever extracted under its own name. The limits are far beyond any image dataset that fits the
upload limit, and far below what hurts.
"""

from __future__ import annotations

import unicodedata
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

from worker.distill.spec import SpecError

MAX_ENTRIES = 200_000
MAX_ENTRY_BYTES = 64 << 20
MAX_TOTAL_BYTES = 16 << 30
MAX_RATIO, RATIO_FROM = 100, 1 << 20  # unpacked : packed, looked at from 1 MB on
MAX_DEPTH, MAX_NAME = 8, 1024
FIX = "Make a new archive of the plain image folders and upload that."
JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar", ".lzma")


@dataclass(frozen=True)
class Entry:
    """One file (or, with is_dir, one folder) by the components of its name."""

    parts: tuple[str, ...]
    size: int
    handle: Any  # the container's own
    is_dir: bool = False

    @property
    def name(self) -> str:
        return printable("/".join(self.parts))


def printable(text: str) -> str:
    """Control, invisible, direction-changing and unpaired characters as escapes; length bounded."""
    shown = "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else c
        for c in text
    )
    return shown if len(shown) <= 200 else f"{shown[:120]}…{shown[-60:]}"


@dataclass
class Container:
    """An opened archive or folder. `entries` are checked; `read` counts what it really unpacks."""

    label: str  # for messages
    entries: list[Entry] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    total: int = 0
    guessed: int = 0  # names that were not UTF-8
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, entry: Entry) -> bytes:
        raise NotImplementedError

    def refuse(self, problem: str, fix: str = FIX) -> SpecError:
        return SpecError("source", self.label, problem, fix)

    def admit(self, raw: str, size: int, handle: Any, *, is_dir: bool = False) -> None:
        """Check a name and a declared size; put the entry in the list unless it is junk."""
        if len(self.entries) >= MAX_ENTRIES:
            raise self.refuse(f"it has more than {MAX_ENTRIES:,} entries.", "Split the dataset.")
        parts = self._parts(raw)
        if not parts or any(part.startswith(".") or part.lower() in JUNK for part in parts):
            return
        entry = Entry(parts, size, handle, is_dir)
        self.total += size
        if size > MAX_ENTRY_BYTES:
            raise self.refuse(f"{entry.name} unpacks to {size:,} bytes, allowed are {MAX_ENTRY_BYTES:,}.")
        if self.total > MAX_TOTAL_BYTES:
            raise self.refuse(f"it unpacks to more than {MAX_TOTAL_BYTES:,} bytes.", "Split the dataset.")
        if not is_dir and parts[-1].lower().endswith(NESTED):
            raise self.refuse(
                f"{entry.name} is an archive inside the archive.", "Unpack the inner one first."
            )
        self.entries.append(entry)

    def decoded(self, name: str) -> str:
        """A name as text that can be stored, though its bytes were not UTF-8."""
        try:
            name.encode()
        except UnicodeEncodeError:
            self.guessed += 1
            return name.encode("utf-8", "surrogateescape").decode("latin-1")
        return name

    def check_duplicates(self) -> None:
        seen = set()
        for entry in self.entries:
            if entry.parts in seen and not entry.is_dir:
                raise self.refuse(f"the name {entry.name} is there twice.")
            seen.add(entry.parts)

    def _parts(self, raw: str) -> tuple[str, ...]:
        shown = printable(raw)
        if "\0" in raw or len(raw) > MAX_NAME:
            raise self.refuse(f"the name {shown} is not a proper file name.")
        if raw.startswith("/") or "\\" in raw or (len(raw) > 1 and raw[1] == ":"):
            raise self.refuse(f"the name {shown} is absolute or has backslashes.")
        parts = tuple(part for part in raw.split("/") if part not in ("", "."))
        if ".." in parts:
            raise self.refuse(f"the name {shown} leads out of the archive.")
        if len(parts) > MAX_DEPTH:
            raise self.refuse(f"{shown} lies more than {MAX_DEPTH} folders deep.")
        return parts

    def unpack(self, file: IO[bytes], entry: Entry) -> bytes:
        """At most what was declared, and then not a byte more."""
        content = file.read(entry.size + 1)
        if len(content) != entry.size:
            raise self.refuse(f"{entry.name} does not unpack to the {entry.size:,} bytes it declares.")
        return content
