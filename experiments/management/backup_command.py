"""What `backup` and `restore` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from experiments.backup import BackupError


class BackupCommand(BaseCommand):
    requires_system_checks = []  # when something is broken is when it is needed

    @contextmanager
    def in_words(self) -> Iterator[None]:
        """What goes wrong within is one sentence for a person."""
        try:
            yield
        except BackupError as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            reason = str(error).splitlines()[0]
            raise CommandError(f"The database refused ({reason}): `manage.py doctor` says more.") from error
