"""A disk of a few megabytes, to be filled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """What is mounted at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ballast = folder, folder / "ballast"

    @property
    def free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def fill(self, leave: int = 0) -> None:
        """Takes all room but `leave` bytes; what is there already stays."""
        with open(self.ballast, "ab", buffering=0) as file:
            while (left := self.free - leave) > 0 and file.write(b"\0" * min(left, 1 << 16)):
                pass

    def clear(self) -> None:
        self.ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """A disk of that size at `folder`, with what lay there before. Skips where nothing may be mounted."""
    if not sys.platform.startswith("linux") or os.getuid() != 0:
        pytest.skip("a small disk needs Linux and the right to mount")
    folder.mkdir(parents=True, exist_ok=True)
    before = folder.with_name(folder.name + ".before")
    shutil.copytree(folder, before)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(before)
        pytest.skip(f"a small disk cannot be mounted here ({done.stderr.strip()})")
    try:
        shutil.copytree(before, folder, dirs_exist_ok=True)
        shutil.rmtree(before)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)  # lazily: a process may still be in it
