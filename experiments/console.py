"""The lines a run has said: pages of them, sought in the database however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import QuerySet

from .models import LogLine, Run

PAGE = 500
# What the page offers → the levels it means. An unknown word is answered with a ValueError.
LEVELS: dict[str, tuple[str, ...]] = {"": (), "warning": ("warning", "error"), "error": ("error",)}


@dataclass(frozen=True)
class Sought:
    """Part of the text, in either case, and from which level on ("" is all)."""

    text: str = ""
    level: str = ""

    def lines(self, run: Run) -> QuerySet[LogLine]:
        """Those of the run, oldest first. ValueError: there is no such level."""
        if self.level not in LEVELS:
            raise ValueError(f"level = {self.level[:80]!r}: choose warning, error, or leave it out.")
        found = LogLine.objects.filter(run=run).order_by("n")
        if self.text:
            found = found.filter(text__icontains=self.text)
        return found.filter(level__in=LEVELS[self.level]) if self.level else found


def newest(
    lines: QuerySet[LogLine], before: int | None = None, most: int = PAGE
) -> tuple[list[LogLine], bool]:
    """The last lines (of those below a number), oldest first, and whether there are older ones."""
    found = lines if before is None else lines.filter(n__lt=before)
    page = list(found.order_by("-n")[: most + 1])
    return page[:most][::-1], len(page) > most


def following(lines: QuerySet[LogLine], after: int, most: int = PAGE) -> tuple[list[LogLine], bool]:
    """The first lines above a number, and whether there are further ones."""
    page = list(lines.filter(n__gt=after)[: most + 1])
    return page[:most], len(page) > most


def written(lines: QuerySet[LogLine]) -> Iterator[str]:
    """All of them as text, a page at a time: no cursor stays open, no run fills the memory."""
    after, more = -1, True
    while more:
        page, more = following(lines, after, 2_000)
        if page:
            after = page[-1].n
            yield "".join(f"{line.wall:.3f} {line.level:<7} {line.text}\n" for line in page)
