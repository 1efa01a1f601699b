"""What the engine said while the database was away: JSON lines in the attempt's folder.

The recorder writes here instead of holding hours of points in memory, and reads it back when the database
returns. If the worker dies before that, the next attempt finds the journal and loses nothing either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from worker.distill import events
from worker.distill.events import Event

BLOCK = 2_000  # events that are written to the database in one transaction


class Journal:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"

    def __bool__(self) -> bool:
        return self.path.exists()

    def append(self, said: Iterable[Event]) -> None:
        """OSError where the disk takes no more: the caller keeps its events in memory."""
        text = "".join(event.model_dump_json() + "\n" for event in said)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text)

    def blocks(self) -> Iterator[list[Event]]:
        """In order; a line that a crash cut short ends it."""
        with open(self.path, encoding="utf-8") as file:
            found = _events(file)
            while block := list(islice(found, BLOCK)):
                yield block

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)


def _events(lines: Iterable[str]) -> Iterator[Event]:
    for line in lines:
        try:
            yield events.parse(line)
        except ValidationError:
            return
