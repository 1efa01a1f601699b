"""What `up`, `demo` and `study` share: all of kdweb on this machine, and something done while it runs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from experiments.scenario import ScenarioError
from kdweb.stack import Site, run_stack
from kdweb.supervise import StackError


class StackCommand(BaseCommand):
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--port", type=int, help="Port of the web server (default: KDWEB_PORT, else 8000)."
        )

    def run(self, port: int | None, on_ready: Callable[[Site], int | None] | None = None) -> None:
        """Start everything, do `on_ready` once it answers, and leave with the exit code."""

        def guarded(site: Site) -> int | None:
            assert on_ready is not None
            try:
                return on_ready(site)
            except ScenarioError as error:
                self.say(f"✗ {error}")
                return 1
            finally:
                connection.close()

        try:
            code = run_stack(guarded if on_ready else None, port=port, say=self.say)
        except StackError as error:
            raise CommandError(str(error)) from error
        sys.exit(code)

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def administrator() -> AbstractBaseUser:
    """The first one; `run_stack` has made it."""
    user = get_user_model()._default_manager.filter(is_superuser=True).order_by("pk").first()
    assert user is not None
    return user
