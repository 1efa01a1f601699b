"""Notes on a run that several people edit: nobody overwrites what he has not seen."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db.models import F
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from .models import Run

MAX_LENGTH = 20_000


def clean(text: str) -> str:
    """ValueError for a text that is too long."""
    text = text.replace("\r\n", "\n").strip()
    if len(text) > MAX_LENGTH:
        words = _("notes: %(n)s characters; write at most %(most)s.")
        raise ValueError(words % {"n": f"{len(text):,}", "most": f"{MAX_LENGTH:,}"})
    return text


def save(run: Run, text: str, version: int, by: User | None = None) -> bool:
    """Writes `text` if the notes are still those of `version`; `run` then holds what is stored.

    False: somebody else saved meanwhile, and `run` holds theirs. Saving the same text twice is saving it
    once. ValueError for a text that is too long.
    """
    text = clean(text)
    unchanged = Run.objects.filter(pk=run.pk, notes_version=version)
    saved = unchanged.update(notes=text, notes_version=F("notes_version") + 1, notes_by=by, notes_saved=Now())
    run.refresh_from_db(fields=["notes", "notes_version", "notes_by", "notes_saved"])
    return bool(saved) or run.notes == text
