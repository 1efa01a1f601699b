"""Every status change of a run. Nobody else writes `Run.status`.

A change is one conditional UPDATE that names the states it may come from and, for a worker, the number of
its attempt (the fence). No row changed means: somebody else was first, and nothing happens. So it is the
same on SQLite and PostgreSQL, needs no lock, and a worker that was thought dead cannot spoil anything.

A lease is written and judged by the database's clock alone. One that ran out is only a suspicion: another
worker may claim the run when its own has stayed silent for a while after a sweep noticed. So a database
that was away, a clock that jumped, a machine that slept cost no living run its worker.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, Max, Q
from django.db.models.functions import Coalesce, Now
from django.utils.translation import gettext as _

from . import fair_queue, measurements, queue, run_values, stream
from .models import Artifact, Attempt, Run, RunEvent, Teacher
from .models.catalogue import Readiness

TTL = timedelta(seconds=20)
RENEW_EVERY = 5.0  # seconds
SUSPECTED = timedelta(seconds=10)  # a living worker renews twice in it
MAX_TRIES = 3  # attempts in a row that ended without a word and without a new checkpoint
SAME_STEP = 2  # of them at the very same step

S, Outcome = Run.Status, Attempt.Outcome
SOURCES: dict[str, tuple[str, ...]] = {
    S.QUEUED: (S.DRAFT, S.PREPARING, S.RUNNING, S.PAUSED, S.FAILED, S.CANCELLED),
    S.PREPARING: (S.QUEUED, S.PREPARING, S.RUNNING),
    S.RUNNING: (S.PREPARING,),
    S.PAUSED: (S.QUEUED, S.PREPARING, S.RUNNING),
    S.SUCCEEDED: (S.PREPARING, S.RUNNING),
    S.FAILED: (S.QUEUED, S.PREPARING, S.RUNNING),
    S.CANCELLED: (S.DRAFT, S.QUEUED, S.PREPARING, S.RUNNING, S.PAUSED),
}
# What every change that ends an attempt takes back.
FREE: dict[str, Any] = {"lease_owner": "", "lease_expires": None, "silent_since": None, "asked": ""}


class Refused(Exception):
    """It may not be done now; the words say why, and what to do first."""


def _change(run_id: int, to: str, condition: Q, text: str, actor: object = "", **values: Any) -> bool:
    """The one door: the row goes to `to` if it may, and says so in its history and to whoever watches."""
    with transaction.atomic():
        found = Run.objects.filter(condition, pk=run_id, status__in=SOURCES[to])
        if found.update(status=to, **values) != 1:
            return False
        _note(run_id, to, text, actor)
        if to in Run.ENDED:
            _settle_teacher(run_id, to, values.get("reason", ""))
        frame = {"state": str(to)} | ({"phase": values["phase"]} if "phase" in values else {})
        transaction.on_commit(lambda: _tell(run_id, frame))
    return True


def _note(run_id: int, status: str, text: str, actor: object = "") -> None:
    RunEvent.objects.create(run_id=run_id, status=status, text=text[:500], actor=str(actor or "")[:200])


def _tell(run_id: int, frame: dict[str, Any]) -> None:
    """Whoever watches the run sees it at once."""
    stream.publish(run_id, frame)


def _held(fence: int) -> Q:
    """What every worker's write asks for: it is still the attempt that may write."""
    return Q(fence=fence, status__in=Run.ACTIVE)


def lost() -> Q:
    """Runs whose worker has been silent for so long that another one may have them."""
    return Q(status__in=Run.ACTIVE, silent_since__lte=Now() - SUSPECTED)


# --- People -----------------------------------------------------------------------------------------------
def submit(run: Run, actor: object) -> bool:
    """draft → queued, and a nudge to the workers."""
    with transaction.atomic():
        turn = fair_queue.turn_for(run)
        if not _change(
            run.pk, S.QUEUED, Q(status=S.DRAFT), "Submitted.", actor, queued=Now(), turn=turn, phase=""
        ):
            return False
        run.refresh_from_db(fields=["status", "queued", "turn"])
        queue.send_run(run.pk)
    return True


def request_stop(run: Run, actor: object) -> bool:
    """Cancels what waits; asks the worker of what runs. False if it has ended or was asked before.

    The word is left first: a claim refuses a run with one, so none slips through between the two steps.
    """
    unended = Run.objects.filter(pk=run.pk).exclude(status__in=Run.ENDED)
    asked = unended.exclude(asked=Run.Asked.STOP).update(asked=Run.Asked.STOP)
    if _cancel(run.pk, Q(status__in=(S.DRAFT, S.QUEUED)), "Cancelled before it started.", actor):
        return True
    if _cancel(run.pk, Q(status=S.PAUSED), "Cancelled while it was paused.", actor):
        return True
    if asked and unended.exists():  # else another tab has just cancelled it
        remark(run.pk, "Stop requested.", actor)
    return bool(asked)


def request_pause(run: Run, actor: object) -> bool:
    """Takes what waits out of the queue; asks the worker of what runs to leave a checkpoint and let go."""
    who = f"Paused by {actor}."
    if _change(run.pk, S.PAUSED, Q(status=S.QUEUED, asked=""), who, actor, **_paused(Run.Hold.PERSON, who)):
        return True
    running = Run.objects.filter(pk=run.pk, status__in=Run.ACTIVE, asked=Run.Asked.NOTHING)
    if not running.update(asked=Run.Asked.PAUSE):
        return False
    remark(run.pk, "Pause requested.", actor)
    return True


def resume(run: Run, actor: object) -> bool:
    """paused → queued, from the last checkpoint; withdraws a pause that was asked for and has not come."""
    if Run.objects.filter(pk=run.pk, status__in=Run.ACTIVE, asked=Run.Asked.PAUSE).update(asked=""):
        remark(run.pk, "The pause is withdrawn.", actor)
        return True
    # One that has begun goes on where it was; one that has not queues up like any other.
    turn = run.turn if run.started else fair_queue.turn_for(run)
    return _queue_again(run.pk, Q(status=S.PAUSED), "Resumed.", actor, queued=Now(), turn=turn)


def retry(run: Run, actor: object, from_start: bool = False) -> bool:
    """failed or cancelled → queued: from its last checkpoint, or from the start on request."""
    text = "Tried again from the start." if from_start else "Tried again from its last checkpoint."
    ended = Q(status__in=(S.FAILED, S.CANCELLED), shelf="")
    with transaction.atomic():
        anew = {"queued": Now(), "turn": fair_queue.turn_for(run), "finished": None, "fresh_from": F("fence")}
        if not _queue_again(run.pk, ended, text, actor, **anew):
            return False
        if from_start:
            Artifact.objects.filter(run_id=run.pk, kind=Artifact.Kind.RESUME).delete()
        unmade = Teacher.objects.filter(made_by=run.pk, status=Readiness.FAILED)
        unmade.update(status=Readiness.PREPARING, error="")
    return True


def _queue_again(run_id: int, condition: Q, text: str, actor: object, **values: Any) -> bool:
    with transaction.atomic():
        values |= {"reason": "", "hold": "", "phase": "", "asked": ""}
        if not _change(run_id, S.QUEUED, condition, text, actor, **values):
            return False
        queue.send_run(run_id)
    return True


def set_priority(run: Run, level: int, actor: object) -> bool:
    """Of a run that waits. It takes its place among those of the new priority. ValueError: no such level."""
    label = Run.Priority(level).name.lower()
    with transaction.atomic():
        run.priority = level
        waits = Run.objects.filter(pk=run.pk, status__in=(S.DRAFT, S.QUEUED, S.PAUSED)).exclude(
            priority=level
        )
        if not waits.update(priority=level, turn=fair_queue.turn_for(run)):
            return False
        remark(run.pk, f"Priority set to {label}.", actor)
    return True


def cancel_waiting(run_id: int, reason: str, actor: object) -> bool:
    """queued or paused → cancelled. False: it does not wait."""
    return _cancel(run_id, Q(status__in=(S.QUEUED, S.PAUSED)), reason, actor)


def delete(run: Run, actor: object) -> None:
    """The run, its curves and its files. Raises Refused while a worker has it or a teacher lives of it."""
    refuse_living_teacher(run)
    with transaction.atomic():
        # An ended run is in no worker's hands, and one that waits must not be claimed meanwhile.
        _cancel(run.pk, Q(status__in=(S.DRAFT, S.QUEUED, S.PAUSED)), "Deleted.", actor)
        current = Run.objects.select_for_update().get(pk=run.pk)
        if not current.ended:
            words = _("%(run)s is %(status)s: stop it first, then delete it.")
            raise Refused(words % {"run": run.name, "status": current.get_status_display().lower()})
        current.delete()


def refuse_living_teacher(run: Run) -> None:
    """Raises Refused for a run whose files are a teacher's weights."""
    made = Teacher.objects.filter(made_by=run.pk).exclude(status=Readiness.FAILED).first()
    if made is not None:
        words = _("%(run)s holds the weights of the teacher %(teacher)s: delete the teacher first.")
        raise Refused(words % {"run": run.name, "teacher": made})


def remark(run_id: int, text: str, actor: object) -> None:
    """A line of the history that is no change of status."""
    _note(run_id, Run.objects.values_list("status", flat=True).get(pk=run_id), text, actor)


def _cancel(run_id: int, condition: Q, reason: str, actor: object = "") -> bool:
    end = {"reason": reason, "phase": "", "hold": "", "eta": None, "finished": Now()}
    return _change(run_id, S.CANCELLED, condition, reason, actor, **end, **FREE)


def _paused(hold: str, reason: str) -> dict[str, Any]:
    return {"hold": hold, "reason": reason, "phase": "", "eta": None} | FREE


# --- Workers: claim and hold ------------------------------------------------------------------------------
def claim(worker: str, device: str = "") -> Run | None:
    """Takes the run whose turn it is; None where nothing waits. The message that woke us named no order."""
    fail_orphans()
    for run in startable()[:50]:
        if _refuse(run):
            continue
        if take(run, worker, device):
            return Run.objects.select_related("dataset", "teacher", "student", "makes").get(pk=run.pk)
    return None


def startable() -> Any:
    """What a worker could take, best first: what waits, and what lost its worker."""
    return fair_queue.in_order(Run.objects.filter(Q(status=S.QUEUED) | lost(), fair_queue.can_start()))


def take(run: Run, worker: str, device: str) -> bool:
    """This very run, whoever's turn it is. False: it is not free, or somebody was first."""
    free = Q(fence=run.fence, asked="") & (Q(status=S.QUEUED) | lost())
    fence, text = run.fence + 1, f"Attempt {run.fence + 1} begins."
    if run.status != S.QUEUED:
        text += f" The worker of the last one, {run.lease_owner or 'unknown'}, went silent."
    hold = FREE | {"lease_owner": worker, "lease_expires": Now() + TTL, "fence": fence, "hold": ""}
    with transaction.atomic():
        gone = run.attempts.filter(number=run.fence, ended=None)
        began = {"started": Coalesce("started", Now()), "phase": "Starting"}
        taken = _change(run.pk, S.PREPARING, free, text, worker, **hold, **began)
        if taken:
            gone.update(ended=Now(), outcome=Outcome.LOST, reason="Its worker went silent.", step=run.step)
            Attempt.objects.create(run_id=run.pk, number=fence, worker=worker, device=device)
    return taken


def forsake(worker: str) -> int:
    """A worker that starts has nothing in hand: what its predecessor of that name held is free at once."""
    held = Run.objects.filter(status__in=Run.ACTIVE, lease_owner=worker)
    return held.update(lease_expires=Now(), silent_since=Now() - SUSPECTED)


def renew(run_id: int, fence: int) -> bool:
    """Keeps the lease. False: the run belongs to somebody else now, stop at once."""
    mine = Run.objects.filter(_held(fence), pk=run_id)
    return bool(mine.update(lease_expires=Now() + TTL, silent_since=None))


def leave_wanted(run_id: int) -> bool:
    """Whether a person wants the run to stop or to pause."""
    return Run.objects.filter(pk=run_id).exclude(asked=Run.Asked.NOTHING).exists()


def write(run_id: int, fence: int, **values: Any) -> bool:
    """Progress, phase, summary: whatever a worker reports between two status changes. False: fenced off."""
    values = values or {"fence": fence}
    return bool(Run.objects.filter(_held(fence), pk=run_id).update(**values))


def note(run_id: int, fence: int, text: str) -> bool:
    """A line of the history that is no change of status. False: fenced off."""
    with transaction.atomic():
        if not write(run_id, fence):
            return False
        remark(run_id, text, "")
    return True


def running(run_id: int, fence: int) -> bool:
    """The first training step is near: preparing → running."""
    return _change(run_id, S.RUNNING, Q(fence=fence), "Training begins.")


# --- Workers: the end -------------------------------------------------------------------------------------
def succeed(run_id: int, fence: int, result: dict[str, Any]) -> bool:
    """Stores what the engine measured; a teacher in the making becomes ready."""
    student = result["student"]
    values = {
        "results": result,
        "accuracy": measurements.score(student),
        "parameters": student.get("parameters"),
        "bytes": student.get("bytes"),
        "flops": student.get("flops"),
        "latency_ms": student.get("latency_p50_ms"),
        "finished": Now(),
        "phase": "",
        "eta": None,
    }
    steps = result.get("steps")
    if isinstance(steps, int):
        values["step"] = values["total_steps"] = steps
    with transaction.atomic():
        done = _change(run_id, S.SUCCEEDED, Q(fence=fence), "Finished.", **values, **FREE)
        if done:
            run_values.ended(run_id)
        return done and _end_attempt(run_id, fence, Outcome.SUCCEEDED)


def fail(run_id: int, fence: int, reason: str) -> bool:
    """It cannot go on, and trying again would not help."""
    with transaction.atomic():
        done = _fail(run_id, Q(fence=fence), reason)
        return done and _end_attempt(run_id, fence, Outcome.FAILED, reason)


def _fail(run_id: int, condition: Q, reason: str, actor: object = "") -> bool:
    end = {"reason": reason, "finished": Now(), "eta": None}
    return _change(run_id, S.FAILED, condition, f"Failed: {reason}", actor, **end, **FREE)


def stopped(run_id: int, fence: int) -> bool:
    """The engine ended early: a person asked for it, or its worker shuts down and another shall go on."""
    with transaction.atomic():
        if not write(run_id, fence):  # and from here on the row is ours: no wish can come in between
            return False
        if outcome := _as_asked(run_id, fence):
            return _end_attempt(run_id, fence, outcome)
        text = "Its worker lets go of it; the run goes back to the queue."
        return _hand_back(run_id, fence, text) and _end_attempt(run_id, fence, Outcome.HANDED_BACK)


def _as_asked(run_id: int, fence: int) -> str:
    """Does what a person wanted of the run; the attempt's outcome, or nothing where nothing was asked."""
    if _cancel(run_id, Q(fence=fence, asked=Run.Asked.STOP), "Stopped by request."):
        return Outcome.CANCELLED
    words = "Paused by request."
    paused = _paused(Run.Hold.PERSON, words)
    if _change(run_id, S.PAUSED, Q(fence=fence, asked=Run.Asked.PAUSE), words, **paused):
        return Outcome.PAUSED
    return ""


def disk_full(run_id: int, fence: int, reason: str) -> bool:
    """Paused until there is room again: a sweep sees it."""
    with transaction.atomic():
        values = _paused(Run.Hold.DISK, reason)
        if not _change(run_id, S.PAUSED, Q(fence=fence), f"Paused: {reason}", **values):
            return False
        return _end_attempt(run_id, fence, Outcome.PAUSED, reason)


def crashed(run_id: int, fence: int, reason: str, outcome: str = Outcome.CRASHED) -> bool:
    """The attempt ended without a word of its own: tried again, unless that happened too often."""
    with transaction.atomic():
        if not write(run_id, fence):
            return False
        _end_attempt(run_id, fence, outcome, reason)
        if _as_asked(run_id, fence):
            return True
        if words := _given_up(Run.objects.get(pk=run_id), reason, outcome):
            return _fail(run_id, Q(fence=fence), words)
        return _hand_back(run_id, fence, f"It is tried again: {reason}")


def _hand_back(run_id: int, fence: int, text: str) -> bool:
    if not _change(run_id, S.QUEUED, Q(fence=fence), text, phase="Waiting for a worker", eta=None, **FREE):
        return False
    queue.send_run(run_id)
    return True


def _given_up(run: Run, reason: str, outcome: str) -> str:
    """Why the run is not tried once more after its attempt ended with `outcome`; nothing if it is."""
    checkpoints = run.artifacts.filter(kind=Artifact.Kind.RESUME)
    reached = checkpoints.aggregate(last=Max("fence"))["last"] or 0
    before = run.attempts.filter(number__gt=run.fresh_from, number__lt=run.fence, outcome__in=Attempt.BAD)
    tries = [
        (run.fence, outcome, run.step),
        *before.order_by("-number").values_list("number", "outcome", "step"),
    ]
    futile = sum(number > reached for number, _, _ in tries)
    where = f"step {run.step}" if run.step else f"the start ({run.phase or 'starting'})"
    if futile >= MAX_TRIES:
        return (
            f"{futile} attempts in a row came to no new checkpoint, the last one ended at {where}. {reason} "
            "Look at the console and at the machine's memory, then try again."
        )
    alike = {(ended, step) for _, ended, step in tries[:SAME_STEP]}
    if len(tries) >= SAME_STEP and len(alike) == 1 and outcome != Outcome.LOST:
        return f"Two attempts ended in the same way at {where}, so a third would as well. {reason}"
    return ""


def _refuse(run: Run) -> bool:
    """Ends a run that lost its worker too often at the same place, instead of trying for ever."""
    words = "" if run.status == S.QUEUED else _given_up(run, "Its worker went silent.", Outcome.LOST)
    if not words:
        return False
    with transaction.atomic():
        failed = _fail(run.pk, Q(fence=run.fence) & lost(), words, "sweep")
        return failed and _end_attempt(run.pk, run.fence, Outcome.LOST, "Its worker went silent.")


def _end_attempt(run_id: int, fence: int, outcome: str, reason: str = "") -> bool:
    step = Run.objects.values_list("step", flat=True).get(pk=run_id)
    attempts = Attempt.objects.filter(run_id=run_id, number=fence)
    attempts.update(ended=Now(), outcome=outcome, reason=reason, step=step)
    return True


def _settle_teacher(run_id: int, status: str, reason: str) -> None:
    """A run that makes a teacher decides what becomes of it."""
    made = Teacher.objects.filter(made_by=run_id, status=Readiness.PREPARING)
    if status != S.SUCCEEDED:
        word = "was cancelled" if status == S.CANCELLED else "failed"
        made.update(status=Readiness.FAILED, error=f"Its training {word}. {reason}".strip())
        return
    weights = Artifact.objects.filter(run_id=run_id, kind=Artifact.Kind.STUDENT).order_by("-fence").first()
    if weights is None:
        made.update(status=Readiness.FAILED, error="Its training ended without a file of weights.")
        return
    metrics = Run.objects.values_list("results", flat=True).get(pk=run_id)["student"]
    made.update(
        status=Readiness.READY, error="", weights=weights.path, sha256=weights.sha256, metrics=metrics
    )
    wait_for_it = fair_queue.beside().filter(teacher__made_by=run_id)
    send_waiting(Q(teacher__made_by=run_id) | Q(Exists(wait_for_it)))


def send_waiting(condition: Q) -> None:
    """What these runs waited for is there: nudge the workers now instead of at the next sweep."""
    for run_id in Run.objects.filter(condition, status=S.QUEUED).values_list("pk", flat=True):
        queue.send_run(run_id)


# --- What a sweep does to runs ----------------------------------------------------------------------------
def mark_silent() -> None:
    """Notes whose lease has run out. A lease further ahead than any worker writes is of a clock set back."""
    ahead = Q(lease_expires__gt=Now() + 2 * TTL)
    expired = Run.objects.filter(Q(lease_expires__lt=Now()) | ahead, status__in=Run.ACTIVE)
    expired.filter(Q(silent_since=None) | Q(silent_since__gt=Now())).update(silent_since=Now())


def end_silent() -> None:
    """What a person wanted of a run whose worker is gone happens without it."""
    for run in Run.objects.filter(lost()).exclude(asked=Run.Asked.NOTHING):
        with transaction.atomic():
            still = Run.objects.filter(lost(), pk=run.pk, fence=run.fence).update(fence=run.fence)
            if still and _as_asked(run.pk, run.fence):
                _end_attempt(run.pk, run.fence, Outcome.LOST, "Its worker went silent.")
    for run in Run.objects.filter(status=S.QUEUED, asked=Run.Asked.STOP):
        _cancel(run.pk, Q(asked=Run.Asked.STOP, status=S.QUEUED), "Cancelled before it started.", "sweep")


def room_again(run: Run) -> bool:
    """The disk that stopped the run has room: paused → queued."""
    held = Q(status=S.PAUSED, hold=Run.Hold.DISK)
    return _queue_again(run.pk, held, "There is room on the disk again.", "sweep")


def to_nudge() -> list[Run]:
    """What waits for a worker, in order; what was tried too often fails instead."""
    return [run for run in startable()[:200] if not _refuse(run)]


def fail_orphans() -> None:
    """Runs that wait for a dataset or a teacher that will not come."""
    gone = Q(dataset__status=Readiness.FAILED) | Q(teacher__status=Readiness.FAILED)
    gone |= Q(Exists(fair_queue.beside().filter(teacher__status=Readiness.FAILED)))
    waits = Q(status=S.QUEUED) | lost()
    for run in Run.objects.filter(gone, waits).select_related("dataset", "teacher")[:200]:
        if run.dataset.status == Readiness.FAILED:
            reason = f"Its dataset “{run.dataset}” could not be prepared: {run.dataset.error}"
        else:
            teacher = next(one for one in run.teachers if one.status == Readiness.FAILED)
            reason = f"Its teacher “{teacher}” is not there: {teacher.error}"
        _fail(run.pk, waits, reason, "sweep")
