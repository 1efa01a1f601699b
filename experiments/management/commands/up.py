"""`manage.py up`: everything on one machine, until Ctrl-C."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from kdweb.stack import run_stack
from kdweb.supervise import StackError


class Command(BaseCommand):
    help = "Starts Redis, the workers and the web on this machine, and keeps them running until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--port", type=int, help="Port of the web server (default: KDWEB_PORT, else 8000)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            code = run_stack(port=options["port"], say=self.say)
        except StackError as error:
            raise CommandError(str(error)) from error
        sys.exit(code)

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
