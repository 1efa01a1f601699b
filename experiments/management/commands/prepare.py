"""`manage.py prepare`: what must be there before the first process starts. Safe to repeat."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from kdweb.stack import prepare
from kdweb.supervise import StackError


class Command(BaseCommand):
    help = "Creates or updates the tables, and the first administrator (KDWEB_ADMIN_PASSWORD, else random)."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            prepare(self.stdout.write)
        except StackError as error:
            raise CommandError(str(error)) from error
