"""`manage.py restore SOURCE`: a backup onto an empty home. `--check`: do rows and files agree?"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from experiments.backup.check import check
from experiments.backup.restore import restore
from experiments.management.backup_command import BackupCommand


class Command(BackupCommand):
    help = (
        "Puts a backup onto an empty KDWEB_HOME and database, and checks it. "
        "With --check and no backup: compares the rows with the files that are here, and changes nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("source", type=Path, nargs="?", help="The backup's folder.")
        parser.add_argument("--check", action="store_true", help="Only compare rows and files, here.")

    def handle(self, *args: Any, **options: Any) -> None:
        source = options["source"]
        if (source is None) != options["check"]:
            raise CommandError("Give either the folder of a backup, or --check.")
        with self.in_words():
            if source:
                made = restore(source, self.stdout.write)
                self.stdout.write(f"Restored the backup of {made.made:%Y-%m-%d %H:%M} UTC.")
            self.report()

    def report(self) -> None:
        """Exit code 1 when something that a row names is missing or differs."""
        found = check(self.stdout.write)
        for line in found.problems:
            self.stdout.write(f"✗ {line}")
        for path in found.strays:
            self.stdout.write(f"! {path} belongs to no row. Nothing is removed: look, and do so yourself.")
        self.stdout.write(
            f"{found.checked} files that rows name: {len(found.problems)} not as they should be; "
            f"{len(found.strays)} others."
        )
        sys.exit(1 if found.problems else 0)
