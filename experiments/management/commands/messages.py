"""`manage.py messages`: the texts of pages and scripts into `locale/`, and what is translated compiled.

For who works on kdweb: it needs gettext's tools. Who runs it needs none, as the compiled files are committed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.core.management.commands.makemessages import Command as MakeMessages

from experiments.forms.schema import texts
from worker.distill.spec import Mixing, Schedule, Training

from .catalogue import ask_engine

LOCALE = "zh_Hans"
DOMAINS = {"django": ["html", "txt", "py"], "djangojs": ["js"]}
SOURCES = ("experiments", "kdweb", "templates")
UNTOLD = re.compile(r'^msgstr(?:\[\d\])? ""\n(?!")', re.MULTILINE)
TOOLS = ("xgettext", "msguniq", "msgmerge", "msgattrib", "msgfmt")


class _Extract(MakeMessages):
    # A guess from a similar text would be shown as if somebody had written it.
    msgmerge_options = ["-q", "--backup=none", "--no-fuzzy-matching", "--update"]
    xgettext_options = [*MakeMessages.xgettext_options, "--keyword=_l"]  # gettext_lazy, in long tables


class Command(BaseCommand):
    help = "Collects what pages and scripts say into locale/*/LC_MESSAGES/*.po and compiles the translations."
    requires_system_checks = ()  # texts can be gathered while a page is half written

    def handle(self, *args: Any, **options: Any) -> None:
        if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
            raise CommandError(
                f"{', '.join(missing)} not found: install gettext (Debian: apt install gettext)."
            )
        catalogue = ask_engine()
        for domain in DOMAINS:
            target = catalogue_file(domain)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(collected(domain, published(catalogue)), encoding="utf-8")
            compiled = str(target.with_suffix(".mo"))
            subprocess.run(["msgfmt", "-o", compiled, str(target)], check=True)
            untold = len(UNTOLD.findall(target.read_text(encoding="utf-8")))
            self.stdout.write(f"{target.relative_to(settings.BASE_DIR)}: {untold or 'nothing'} to translate.")


def catalogue_file(domain: str) -> Path:
    return Path(settings.BASE_DIR) / "locale" / LOCALE / "LC_MESSAGES" / f"{domain}.po"


def collected(domain: str, further: Iterable[str] = ()) -> str:
    """The .po file as it should be: the texts of the code and `further` ones, translated as far as they were.

    Gathered in a folder of its own with links to the code, so that nothing half done gets into the tree.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for source in SOURCES:
            (root / source).symlink_to(Path(settings.BASE_DIR) / source)
        file = root / "locale" / LOCALE / "LC_MESSAGES" / f"{domain}.po"
        file.parent.mkdir(parents=True)
        if catalogue_file(domain).exists():
            shutil.copy(catalogue_file(domain), file)
        if domain == "django":
            calls = (f"gettext_noop({text!r})\n" for text in sorted(set(further)))
            (root / "published.py").write_text("".join(calls), encoding="utf-8")
        with chdir(root):
            _extract(domain)
        return re.sub(r'^"POT-Creation-Date:.*\n', "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)


def _extract(domain: str) -> None:
    call_command(
        _Extract(),
        locale=[LOCALE],
        domain=domain,
        extensions=DOMAINS[domain],
        symlinks=True,
        add_location="file",
        no_wrap=True,
        no_obsolete=True,
        verbosity=0,
    )


def published(catalogue: dict[str, Any]) -> Iterator[str]:
    """What the pages show of the engine's own words: of its specification, and of what workers publish."""
    for part in (Mixing, Schedule, Training):
        yield from texts(part.model_json_schema())
    for row in (*catalogue["methods"], *catalogue["dataset_kinds"]):
        yield from (row["title"], row["summary"], *texts(row["schema"]))
        yield from (preset["title"] for preset in row.get("presets", ()))
    yield from (row["summary"] for row in catalogue["architectures"] if row["source"] == "kdweb")
