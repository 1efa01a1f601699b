"""Notes on a run that several people edit: nobody overwrites what he has not seen."""

from __future__ import annotations

from django.db.models import F

from .models import Run

MAX_LENGTH = 20_000


def save(run: Run, text: str, version: int) -> bool:
    """Writes `text` if the notes are still those of `version`; `run` then holds what is stored.

    False: somebody else saved meanwhile, and `run` holds theirs. Saving the same text twice is saving it
    once. ValueError for a text that is too long.
    """
    text = text.replace("\r\n", "\n").strip()
    if len(text) > MAX_LENGTH:
        raise ValueError(f"notes: {len(text):,} characters; write at most {MAX_LENGTH:,}.")
    unchanged = Run.objects.filter(pk=run.pk, notes_version=version)
    saved = unchanged.update(notes=text, notes_version=F("notes_version") + 1)
    run.refresh_from_db(fields=["notes", "notes_version"])
    return bool(saved) or run.notes == text
