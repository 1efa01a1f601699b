"""What a person may want of a run. The page, the choice of many and the API ask here: one rule, one sentence.

Whoever asks twice (a double click, a second tab, a page from before) gets one effect and is told what is
so already; what cannot be done is refused with what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import lifecycle
from .lifecycle import Refused
from .models import Run

S, Asked = Run.Status, Run.Asked
ENDED = {S.SUCCEEDED: "has succeeded", S.FAILED: "has failed", S.CANCELLED: "was cancelled"}
PRIORITIES = {level.label.lower(): level for level in Run.Priority}


@dataclass(frozen=True)
class Said:
    """`done`: this very call changed something. If it did not, the run is as wanted already."""

    done: bool
    text: str


def pause(run: Run, actor: object) -> Said:
    """Raises Refused for a run that has ended, stops, or was never submitted."""
    if lifecycle.request_pause(run, actor):
        run.refresh_from_db()
        return Said(True, f"{run} is paused." if run.status == S.PAUSED else f"{run} will pause.")
    run.refresh_from_db()
    _refuse_ended(run, "there is nothing to pause")
    _refuse_stopping(run)
    if run.status == S.DRAFT:
        raise Refused(f"{run} is a draft: there is nothing to pause.")
    return Said(
        False, f"{run} is paused already." if run.status == S.PAUSED else f"{run} is pausing already."
    )


def resume(run: Run, actor: object) -> Said:
    """Raises Refused for a run that has ended, stops, or was never submitted."""
    if lifecycle.resume(run, actor):
        return Said(True, f"{run} goes on.")
    run.refresh_from_db()
    again = "clone it to train it again" if run.status == S.SUCCEEDED else "try it again instead"
    _refuse_ended(run, again)
    _refuse_stopping(run)
    if run.status == S.DRAFT:
        raise Refused(f"{run} is a draft: submit it first.")
    return Said(False, f"{run} goes on already.")


def stop(run: Run, actor: object) -> Said:
    """Raises Refused for a run that has succeeded or failed."""
    if lifecycle.request_stop(run, actor):
        run.refresh_from_db()
        return Said(True, f"{run} is cancelled." if run.ended else f"{run} will stop.")
    run.refresh_from_db()
    if run.status != S.CANCELLED:
        _refuse_ended(run, "there is nothing to stop")
    return Said(False, f"{run} is stopped already." if run.ended else f"{run} was asked to stop before.")


def retry(run: Run, actor: object, from_start: bool = False) -> Said:
    """Raises Refused for a run that is paused, has succeeded, or was never submitted."""
    if lifecycle.retry(run, actor, from_start):
        where = "from the start" if from_start else "from its last checkpoint"
        return Said(True, f"{run} is tried again {where}.")
    run.refresh_from_db()
    _refuse_ended(run, "clone it to train it again")
    _refuse_stopping(run)
    if run.status == S.PAUSED:
        raise Refused(f"{run} is paused: resume it.")
    if run.status == S.DRAFT:
        raise Refused(f"{run} is a draft: submit it first.")
    return Said(False, f"{run} waits or runs already.")


def set_priority(run: Run, level: int, actor: object) -> Said:
    """Raises Refused for a run that no longer waits, ValueError where there is no such level."""
    label = Run.Priority(level).label.lower()
    if lifecycle.set_priority(run, level, actor):
        return Said(True, f"The priority of {run} is {label} now.")
    run.refresh_from_db()
    _refuse_ended(run, "its place in the queue matters no more")
    if run.status in Run.ACTIVE:
        raise Refused(f"{run} has begun: its place in the queue matters no more.")
    return Said(False, f"The priority of {run} is {label} already.")


def delete(run: Run, actor: object) -> Said:
    """Raises Refused while a worker has the run or a teacher lives of it."""
    try:
        lifecycle.delete(run, actor)
    except Run.DoesNotExist:
        return Said(False, f"{run} is deleted already.")
    return Said(True, f"{run} is deleted.")


def _refuse_ended(run: Run, instead: str) -> None:
    if run.status in ENDED:
        raise Refused(f"{run} {ENDED[S(run.status)]}: {instead}.")


def _refuse_stopping(run: Run) -> None:
    if run.asked == Asked.STOP:
        raise Refused(f"{run} is stopping; it can be tried again once it has.")


# --- Many at once -----------------------------------------------------------------------------------------
BULK: dict[str, tuple[Callable[[Run, object], Said], str]] = {
    "pause": (pause, "will pause"),
    "resume": (resume, "go on"),
    "stop": (stop, "will stop"),
    "delete": (delete, "deleted"),
}
NAMED = 3  # reasons that are said in full


def bulk(action: str, runs: list[Run], actor: object, others: int = 0) -> Said:
    """The same for each run; how many it was done to, and why not to the rest.

    `others`: how many of the chosen the person may not touch. KeyError where there is no such action.
    """
    act, words = BULK[action]
    done, reasons = 0, []
    for run in runs:
        try:
            said = act(run, actor)
        except Refused as refusal:
            said = Said(False, str(refusal))
        done += said.done
        if not said.done:
            reasons.append(said.text)
    if others:
        reasons.append(f"{others} {'is' if others == 1 else 'are'} not there or not yours to change.")
    text = f"{done} of {len(runs) + others} {words}." if reasons else f"{done} {words}."
    more = len(reasons) - NAMED
    tail = [f"And {more} more."] if more > 0 else []
    return Said(bool(done), " ".join([text, *reasons[:NAMED], *tail]))
