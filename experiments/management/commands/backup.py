"""`manage.py backup TARGET`: database and files into a new folder, while everything runs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from experiments.backup.make import make
from experiments.backup.manifest import size
from experiments.management.backup_command import BackupCommand


class Command(BackupCommand):
    help = "Copies the database and the files it names into a new folder, while everything runs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("target", type=Path, help="The folder to make, best on another disk.")

    def handle(self, *args: Any, **options: Any) -> None:
        with self.in_words():
            made = make(options["target"], self.stdout.write)
        counts = ", ".join(f"{count} {name}" for name, count in made.counts.items())
        self.stdout.write(f"{options['target']}: {counts}; {len(made.files)} files, {size(made.bytes)}.")
        self.stdout.write("The secret key is not in it: after a restore everybody signs in anew.")
        for line in made.missing:
            self.stdout.write(f"✗ {line}")
        if made.missing:
            self.stdout.write(
                "The backup is complete but for these, which were not whole here. "
                "`manage.py restore --check` shows them again."
            )
            sys.exit(1)
