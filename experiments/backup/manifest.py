"""The list of what a backup holds, and the one way its files are read."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from experiments import schema

from . import FOLDERS, BackupError, Say
from .database import DUMPS

NAME = "manifest.json"
FORMAT = 1
BLOCK = 1 << 20
SAY_EVERY = 5.0  # seconds


class File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kdweb: str
    made: AwareDatetime
    database: Literal["sqlite", "postgresql"]
    migrations: dict[str, list[str]]  # applied, by app
    counts: dict[str, int]
    files: dict[str, File]  # by their place in the backup
    missing: list[str] = []  # sentences: what rows named and was not there

    @field_validator("files")
    @classmethod
    def _places(cls, files: dict[str, File]) -> dict[str, File]:
        """A backup may come from anywhere: no name may lead out of it, nor out of the data folder."""
        for name in files:
            if name not in DUMPS.values() and not _is_place(name):
                raise ValueError(f"{name!r} is no place in a backup")
        return files

    @property
    def dump(self) -> str:
        return DUMPS[self.database]

    @property
    def stored(self) -> dict[str, File]:
        """The files of the data folder, by their place below it."""
        return {name.removeprefix("files/"): file for name, file in self.files.items() if name != self.dump}

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


def _is_place(name: str) -> bool:
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and part.isprintable() and "\\" not in part for part in parts)
    return plain and len(parts) > 2 and parts[0] == "files" and parts[1] in FOLDERS


def write(folder: Path, manifest: Manifest) -> None:
    """Last of all: everything else is on the disk already."""
    path = folder / NAME
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> Manifest:
    """BackupError where there is none, or none that this version understands."""
    path = folder / NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BackupError(
            f"{folder} is no whole backup: it has no {NAME}, which is written last. Give another folder."
        ) from None
    except (OSError, ValueError) as error:
        raise BackupError(f"{path} cannot be read ({error}): take another backup.") from error
    made_by = content.get("format") if isinstance(content, dict) else None
    if isinstance(made_by, int) and made_by > FORMAT:
        raise BackupError(f"{path} has format {made_by}, this kdweb reads {FORMAT}: use a newer kdweb.")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise BackupError(f"{path} is damaged: {place}: {first['msg']}. Take another backup.") from error
    if manifest.dump not in manifest.files:
        raise BackupError(f"{path} is damaged: it names no {manifest.dump}. Take another backup.")
    return manifest


def unknown_migrations(manifest: Manifest) -> list[str]:
    """Those that the backup's database had and this version does not know."""
    applied = ((app, name) for app, names in manifest.migrations.items() for name in names)
    return [f"{app}.{name}" for app, name in applied if (app, name) not in schema.known()]


class Progress:
    """Says every few seconds how far it is."""

    def __init__(self, verb: str, total: int, say: Say) -> None:
        self.verb, self.total, self.say = verb, total, say
        self.done, self.said = 0, time.monotonic()

    def add(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.said >= SAY_EVERY:
            self.said = time.monotonic()
            self.say(f"  {self.verb} {size(self.done)} of {size(self.total)}")


def size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def digest(source: Path, progress: Progress | None = None, target: Path | None = None) -> File:
    """Hash and size of the file, which is copied to `target` on the way. A symbolic link is not followed."""
    hashed, count = hashlib.sha256(), 0
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        out = None
        if target:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            out = open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: SIM115
        try:
            while block := file.read(BLOCK):
                hashed.update(block)
                count += len(block)
                if out:
                    out.write(block)
                if progress:
                    progress.add(len(block))
            if out:
                out.flush()
                os.fsync(out.fileno())
        finally:
            if out:
                out.close()
    return File(sha256=hashed.hexdigest(), bytes=count)


def verified(folder: Path, name: str, wanted: File, progress: Progress, target: Path | None = None) -> None:
    """The file of the backup is what the manifest says. BackupError otherwise."""
    path = folder / name
    try:
        if path.resolve(strict=True) != folder.resolve() / name:
            raise BackupError(f"{path} is or lies behind a symbolic link: take another backup.")
        found = digest(path, progress, target)
    except FileNotFoundError:
        raise BackupError(f"{path} is missing: take another backup.") from None
    if found != wanted:
        raise BackupError(f"{path} is damaged (its hash differs from the manifest's): take another backup.")
