"""Where a run changes along its way: from one stage to the next, and where an attempt went on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from django.utils.translation import gettext as _

from experiments.models import Run

Mark = dict[str, Any]


def marks(run: Run) -> list[Mark]:
    """[{kind, step, wall, before, text}]: `before` names what ends there; `wall` is None where unknown."""
    return [*stages(run), *restarts(run)]


def stages(run: Run) -> list[Mark]:
    """The boundaries between stages. While it runs its plan says: epochs beyond the main part's are first."""
    found = run.stages
    if not found and not run.ended and run.epoch_steps:
        first = run.epochs - int(run.training.get("epochs", 0))
        if first > 0:
            end = first * run.epoch_steps
            found = [{"name": "first stage", "last_step": end}, {"name": "training", "last_step": None}]
    names = {"first stage": _("first stage"), "training": _("training")}
    return [
        {
            "kind": "stage",
            "step": stage["last_step"],
            "wall": None,
            "before": names.get(stage["name"], stage["name"]),
            "text": names.get(after["name"], after["name"]),
        }
        for stage, after in pairwise(found)
    ]


def restarts(run: Run) -> list[Mark]:
    """Attempts that went on from a checkpoint; one that began anew left nothing of what was before."""
    later = run.attempts.filter(number__gt=1, from_step__gt=0).order_by("number")
    return [
        {
            "kind": "restart",
            "step": attempt.from_step,
            "wall": attempt.started.timestamp(),
            "before": "",
            "text": _("attempt %(number)s") % {"number": attempt.number},
        }
        for attempt in later
    ]
