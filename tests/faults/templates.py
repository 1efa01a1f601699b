"""What every site begins with, made once in a test session: tables, the digits, static files."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from worker.distill.spec import PrepareSpec
from worker.short import described_by

from .processes import python
from .servers import Postgres


class Template:
    """Each part is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.static = folder / "static"
        self.home = folder / "home"

    @property
    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KDWEB_", "DJANGO_", "PYTEST_"))}
        own = {"KDWEB_HOME": str(self.home), "KDWEB_STATIC_ROOT": str(self.static)}
        return clean | own | {"KDWEB_PROCESS": "web", "OMP_NUM_THREADS": "1"}

    def sqlite(self) -> Path:
        """A migrated file."""
        return self._sqlite

    @cached_property
    def _sqlite(self) -> Path:
        self._prepare(self.env)
        return self.home / "kdweb.sqlite3"

    def postgres(self) -> Path:
        """The data folder of a migrated server."""
        return self._postgres.data

    @cached_property
    def _postgres(self) -> Postgres:
        server = Postgres()
        server.start()
        try:
            self._prepare(self.env | {"KDWEB_DATABASE_URL": server.url})
        finally:
            server.stop()
        return server

    @staticmethod
    def _prepare(env: dict[str, str]) -> None:
        """Tables, and the catalogue: a worker that starts need not say it all again."""
        python("manage.py", "migrate", "-v0", env=env)
        python("manage.py", "catalogue", env=env)

    def collect_static(self) -> None:
        if not self.static.exists():
            python("manage.py", "collectstatic", "--noinput", "-v0", env=self.env)

    @property
    def digits(self) -> Path:
        """scikit-learn's digits, prepared."""
        assert self.described
        return self.folder / "digits"

    @cached_property
    def described(self) -> dict[str, Any]:
        """The columns of the digits' row."""
        spec = PrepareSpec(kind="digits", output=str(self.folder / "digits"))
        file = self.folder / "prepare.json"
        file.write_text(spec.model_dump_json())
        said = python("-m", "worker.distill", "prepare", str(file), env=self.env)
        return described_by(json.loads(said.splitlines()[-1])["data"])

    def close(self) -> None:
        if "_postgres" in self.__dict__:
            self._postgres.close()
