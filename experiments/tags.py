"""Tags and stars: what people put on runs to find them again.

A project has one tag for a word, however it is written: the first spelling stays. A tag that no run bears
is gone.
"""

from __future__ import annotations

import re

from django.contrib.auth.models import User
from django.db import transaction
from django.utils.translation import gettext as _

from .lifecycle import Refused
from .models import Run, Star, Tag

LONGEST = 40  # characters
MOST = 20  # on one run
FORBIDDEN = re.compile(r"[^\w\-.:/]")  # \w: letters and digits of any script, and _


def clean(text: str) -> str:
    """The tag as it is stored. ValueError with field, value and fix for what is none."""
    name = text.strip()
    if not name:
        raise ValueError(_("tag: there is none. Write a word, such as baseline."))
    if len(name) > LONGEST:
        words = _("tag = “%(tag)s…”: %(n)s characters; write at most %(most)s.")
        raise ValueError(words % {"tag": name[:LONGEST], "n": len(name), "most": LONGEST})
    if found := FORBIDDEN.search(name):
        words = _("tag = “%(tag)s”: “%(sign)s” cannot be in a tag. Use letters, digits and - _ . : /")
        raise ValueError(words % {"tag": name, "sign": found.group()})
    return name


def spelt(run: Run, name: str) -> list[Tag]:
    """The project's tag of that name, whichever its case (two, where two people made it at one moment)."""
    return [tag for tag in run.project.tags.all() if tag.name.casefold() == name.casefold()]


def add(run: Run, name: str) -> bool:
    """False: the run bears it already. `name` as `clean` gives it. Raises Refused beyond MOST."""
    with transaction.atomic():
        borne = {tag.name.casefold() for tag in run.tags.all()}
        if name.casefold() in borne:
            return False
        if len(borne) >= MOST:
            words = _("%(run)s has %(most)s tags, which is the most: take one off first.")
            raise Refused(words % {"run": run, "most": MOST})
        known = spelt(run, name)
        tag = known[0] if known else Tag.objects.get_or_create(project=run.project, name=name)[0]
        run.tags.add(tag)
    return True


def remove(run: Run, name: str) -> bool:
    """False: the run does not bear it."""
    with transaction.atomic():
        borne = [tag for tag in run.tags.all() if tag.name.casefold() == name.casefold()]
        run.tags.remove(*borne)
        Tag.objects.filter(pk__in=[tag.pk for tag in borne], runs=None).delete()
    return bool(borne)


def drop_unused() -> None:
    """After runs were deleted."""
    Tag.objects.filter(runs=None).delete()


def star(run: Run, user: User) -> bool:
    """False: the person has starred it already."""
    return Star.objects.get_or_create(run=run, user=user)[1]


def unstar(run: Run, user: User) -> bool:
    """False: the person has not starred it."""
    return bool(Star.objects.filter(run=run, user=user).delete()[0])
