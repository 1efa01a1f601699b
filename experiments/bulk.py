"""The same for many runs: each by its own rule (`controls`); what came of it, and how to take it back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from . import controls, tags
from .controls import Said
from .lifecycle import Refused
from .models import Run

MOST = 500  # runs that are changed at once
NAMED = 3  # reasons that are said in full
KEY = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Action:
    """`act(run, actor)`; for those with a tag `act(run, name)`. `undo`: the action that takes it back."""

    act: Callable[..., Said]
    every: Promise
    some: Promise
    undo: str = ""
    tagged: bool = False
    own: bool = False  # touches the person's own marks alone: whoever sees the run may
    whole: bool = True  # one transaction for all of them; false where workers are told of each


ACTIONS = {
    "pause": Action(
        controls.pause,
        gettext_lazy("%(done)s will pause."),
        gettext_lazy("%(done)s of %(all)s will pause."),
        undo="resume",
        whole=False,
    ),
    "resume": Action(
        controls.resume,
        gettext_lazy("%(done)s go on."),
        gettext_lazy("%(done)s of %(all)s go on."),
        undo="pause",
        whole=False,
    ),
    "stop": Action(
        controls.stop,
        gettext_lazy("%(done)s will stop."),
        gettext_lazy("%(done)s of %(all)s will stop."),
        whole=False,
    ),
    "archive": Action(
        controls.archive,
        gettext_lazy("%(done)s archived."),
        gettext_lazy("%(done)s of %(all)s archived."),
        undo="unarchive",
    ),
    "unarchive": Action(
        controls.unarchive,
        gettext_lazy("%(done)s taken out of the archive."),
        gettext_lazy("%(done)s of %(all)s taken out of the archive."),
        undo="archive",
    ),
    "trash": Action(
        controls.trash,
        gettext_lazy("%(done)s moved to the trash."),
        gettext_lazy("%(done)s of %(all)s moved to the trash."),
        undo="restore",
        whole=False,
    ),
    "restore": Action(
        controls.restore,
        gettext_lazy("%(done)s restored."),
        gettext_lazy("%(done)s of %(all)s restored."),
        undo="trash",
    ),
    "tag": Action(
        controls.tag,
        gettext_lazy("%(done)s tagged."),
        gettext_lazy("%(done)s of %(all)s tagged."),
        undo="untag",
        tagged=True,
    ),
    "untag": Action(
        controls.untag,
        gettext_lazy("%(done)s no longer tagged."),
        gettext_lazy("%(done)s of %(all)s no longer tagged."),
        undo="tag",
        tagged=True,
    ),
    "star": Action(
        controls.star,
        gettext_lazy("%(done)s starred."),
        gettext_lazy("%(done)s of %(all)s starred."),
        undo="unstar",
        own=True,
    ),
    "unstar": Action(
        controls.unstar,
        gettext_lazy("%(done)s starred no more."),
        gettext_lazy("%(done)s of %(all)s starred no more."),
        undo="star",
        own=True,
    ),
}


@dataclass(frozen=True)
class Came:
    """`changed`: keys of the runs that are other than before."""

    changed: list[int]
    text: str


def do(action: Action, runs: list[Run], actor: Any, tag: str = "", others: int = 0) -> Came:
    """The same for each run; how many it was done to, and why not to the rest.

    `others`: how many of the chosen the person may not touch. ValueError where `tag` is none.
    """
    if action.tagged:
        tag = tags.clean(tag)
    changed, reasons = [], []
    with transaction.atomic() if action.whole else nullcontext():
        for run in runs:
            said = _one(action, run, tag if action.tagged else actor)
            if said.done:
                changed.append(run.pk)
            else:
                reasons.append(said.text)
    if others:
        words = ngettext(
            "%(n)s is not there or not yours to change.",
            "%(n)s are not there or not yours to change.",
            others,
        )
        reasons.append(words % {"n": others})
    if len(runs) == 1 and not others:
        return Came(changed, said.text)  # of one run, the very sentence of its page
    counts = {"done": len(changed), "all": len(runs) + others}
    return Came(changed, " ".join([(action.some if reasons else action.every) % counts, *_first(reasons)]))


def _one(action: Action, run: Run, word: Any) -> Said:
    try:
        return action.act(run, word)
    except Refused as refusal:
        return Said(False, str(refusal))


def _first(reasons: list[str]) -> list[str]:
    more = len(reasons) - NAMED
    return [*reasons[:NAMED], *([_("And %(n)s more.") % {"n": more}] if more > 0 else [])]


def packed(keys: Iterable[int]) -> str:
    """[1, 2, 3, 9] → 1-3,9: an undo of 500 runs has to fit into the head of an answer."""
    spans: list[list[int]] = []
    for key in sorted(keys):
        if spans and key == spans[-1][1] + 1:
            spans[-1][1] = key
        else:
            spans.append([key, key])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def unpacked(text: str) -> set[int]:
    """What `packed` made; of a range that is too long as much as shows that it is. Nonsense is left out."""
    keys: set[int] = set()
    for part in text.split(","):
        first, _dash, last = part.partition("-")
        if KEY.fullmatch(first) and KEY.fullmatch(last or first):
            start = int(first)
            keys.update(range(start, min(int(last or first), start + MOST) + 1))
        if len(keys) > MOST:
            break
    return keys
