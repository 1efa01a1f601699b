"""Backup and restore: the database and the files its rows name, whole, while everything runs.

A backup is a folder: `manifest.json`, the dump of the database, and the files below `files/`, at their places
below the data folder. The manifest is written last: a folder without one is no backup.
"""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
FOLDERS = ("datasets", "teachers", "runs", "uploads")  # below the data folder: all that rows name


class BackupError(RuntimeError):
    """It was not done; the message is one sentence for a person, with the fix."""
