"""A disk of a few megabytes, to be filled or made read-only."""

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

    def take_files(self) -> None:
        """Not one more file can be made, though there are bytes enough: mount it with few `files`."""
        self.ballast.mkdir()
        for number in range(100_000):
            try:
                (self.ballast / str(number)).touch()
            except OSError:
                return
        raise AssertionError("it takes more files than a test can make")

    def clear(self) -> None:
        if self.ballast.is_dir():
            shutil.rmtree(self.ballast)
        self.ballast.unlink(missing_ok=True)

    def read_only(self, on: bool = True) -> bool:
        """Whether it is done: the kernel refuses while a file is open for writing."""
        words = ["mount", "-o", f"remount,{'ro' if on else 'rw'}", str(self.folder)]
        return subprocess.run(words, capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path, megabytes: int, files: int = 0) -> Iterator[Disk]:
    """A disk of that size at `folder`, with what lay there before; `files`: how many it takes, 0: enough.
    Skips where nothing may be mounted.
    """
    if not sys.platform.startswith("linux") or os.getuid() != 0:
        pytest.skip("a small disk needs Linux and the right to mount")
    folder.mkdir(parents=True, exist_ok=True)
    before = folder.with_name(folder.name + ".before")
    shutil.copytree(folder, before)
    options = f"size={megabytes}m,mode=0777" + (f",nr_inodes={files}" if files else "")
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
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
