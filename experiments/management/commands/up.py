"""`manage.py up`: everything on one machine, until Ctrl-C."""

from __future__ import annotations

from typing import Any

from experiments.management.stack_command import StackCommand


class Command(StackCommand):
    help = "Starts Redis, the workers and the web on this machine, and keeps them running until Ctrl-C."

    def handle(self, *args: Any, **options: Any) -> None:
        self.run(options["port"])
