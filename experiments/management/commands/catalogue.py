"""`manage.py catalogue`: what workers publish when they start, by hand and without one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from experiments.publish import publish


class Command(BaseCommand):
    help = "Publishes the methods, architectures and dataset kinds of this machine's engine."

    def handle(self, *args: Any, **options: Any) -> None:
        catalogue = ask_engine()
        publish(catalogue)
        self.stdout.write(
            f"{len(catalogue['methods'])} methods, {len(catalogue['architectures'])} architectures, "
            f"{len(catalogue['dataset_kinds'])} kinds of dataset."
        )


def ask_engine() -> dict[str, Any]:
    """The catalogue, from an engine of its own. CommandError where it has none to give."""
    asked = subprocess.run(
        [sys.executable, "-m", "worker.distill", "catalogue"],
        cwd=settings.BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    ending = json.loads(asked.stdout.splitlines()[-1]) if asked.stdout.strip() else {}
    if ending.get("type") != "result":
        reason = ending.get("message", "see above")
        raise CommandError(f"The engine has no catalogue: {reason}. Is the `worker` extra installed?")
    catalogue: dict[str, Any] = ending["data"]
    return catalogue
