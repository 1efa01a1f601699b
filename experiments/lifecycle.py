"""Every status change of a run. Nobody else writes `Run.status`.

A change is one conditional UPDATE that names the states it may come from and, for a worker, the number of
its attempt (the fence). No row changed means: somebody else was first, and nothing happens. So it is the
same on SQLite and PostgreSQL, needs no lock, and a worker that was thought dead cannot spoil anything.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import Case, Exists, F, Max, OuterRef, Q, Value, When
from django.db.models.functions import Coalesce
from django.utils import timezone

from . import measurements, queue, stream
from .models import Artifact, Attempt, Run, RunEvent, RunTeacher, Teacher
from .models.catalogue import Readiness

TTL = timedelta(seconds=30)
RENEW_EVERY = 5.0  # seconds
MAX_LOST = 3  # attempts in a row that went silent without a new checkpoint

S = Run.Status
SOURCES: dict[str, tuple[str, ...]] = {
    S.QUEUED: (S.DRAFT, S.PREPARING, S.RUNNING),
    S.PREPARING: (S.QUEUED, S.PREPARING, S.RUNNING),
    S.RUNNING: (S.PREPARING,),
    S.SUCCEEDED: (S.PREPARING, S.RUNNING),
    S.FAILED: (S.QUEUED, S.PREPARING, S.RUNNING),
    S.CANCELLED: (S.DRAFT, S.QUEUED, S.PREPARING, S.RUNNING),
}
FREE: dict[str, Any] = {"lease_owner": "", "lease_expires": None}


def _change(run_id: int, to: str, condition: Q, text: str, actor: object = "", **values: Any) -> bool:
    """The one door: the row goes to `to` if it may, and says so in its history and to whoever watches."""
    with transaction.atomic():
        found = Run.objects.filter(condition, pk=run_id, status__in=SOURCES[to])
        if found.update(status=to, **values) != 1:
            return False
        RunEvent.objects.create(run_id=run_id, status=to, text=text[:500], actor=str(actor or "")[:200])
        if to in Run.ENDED:
            _settle_teacher(run_id, to, values.get("reason", ""))
        frame = {"state": str(to)} | ({"phase": values["phase"]} if "phase" in values else {})
        transaction.on_commit(lambda: _tell(run_id, frame))
    return True


def _tell(run_id: int, frame: dict[str, Any]) -> None:
    """Whoever watches the run sees it at once."""
    stream.publish(run_id, frame)


def _held(fence: int) -> Q:
    """What every worker's write asks for: it is still the attempt that may write."""
    return Q(fence=fence, status__in=Run.ACTIVE)


def _lost() -> Q:
    return Q(status__in=Run.ACTIVE, lease_expires__lt=timezone.now())


# --- People -----------------------------------------------------------------------------------------------
def submit(run: Run, actor: object) -> bool:
    """draft → queued, and a nudge to the workers."""
    now = timezone.now()
    if not _change(run.pk, S.QUEUED, Q(status=S.DRAFT), "Submitted.", actor, queued=now, phase=""):
        return False
    run.status, run.queued = S.QUEUED, now
    queue.send_run(run)
    return True


def request_stop(run: Run, actor: object) -> bool:
    """Cancels what waits; asks the worker of what runs. False if it has ended or was asked before.

    The flag goes up first: a claim refuses a flagged run, so none slips through between the two steps.
    """
    flagged = Run.objects.filter(pk=run.pk, stop_requested=False).exclude(status__in=Run.ENDED)
    asked = flagged.update(stop_requested=True)
    waits = Q(status__in=(S.DRAFT, S.QUEUED))
    if _cancel(run.pk, waits, "Cancelled before it started.", actor):
        return True
    if asked:
        current = Run.objects.values_list("status", flat=True).get(pk=run.pk)
        RunEvent.objects.create(run_id=run.pk, status=current, text="Stop requested.", actor=str(actor)[:200])
    return bool(asked)


def _cancel(run_id: int, condition: Q, reason: str, actor: object = "") -> bool:
    return _change(
        run_id,
        S.CANCELLED,
        condition,
        reason,
        actor,
        reason=reason,
        phase="",
        finished=timezone.now(),
        **FREE,
    )


# --- Workers: claim and hold ------------------------------------------------------------------------------
def claim(run_id: int | None, worker: str, device: str = "") -> Run | None:
    """Takes the run named by the message if it can be had, else the best one that waits."""
    _fail_orphans()
    for run in candidates(run_id):
        if _refuse(run):
            continue
        if _take(run, worker, device):
            return Run.objects.select_related("dataset", "teacher", "student", "makes").get(pk=run.pk)
    return None


def candidates(run_id: int | None = None, limit: int = 50) -> models.QuerySet[Run]:
    """What a worker could take, best first: by priority, then the run that was named, then by age."""
    ready = Q(dataset__status=Readiness.READY) & (Q(teacher=None) | Q(teacher__status=Readiness.READY))
    ready &= ~Q(Exists(_beside().exclude(teacher__status=Readiness.READY)))
    named = Case(When(pk=run_id, then=Value(0)), default=Value(1))
    waiting = Run.objects.filter(Q(status=S.QUEUED) | _lost(), ready, stop_requested=False)
    return waiting.order_by("-priority", named, F("queued").asc(nulls_last=True), "pk")[:limit]


def _beside() -> models.QuerySet[RunTeacher]:
    """The further teachers of the run that a query is about."""
    return RunTeacher.objects.filter(run=OuterRef("pk"))


def _take(run: Run, worker: str, device: str) -> bool:
    now = timezone.now()
    free = Q(fence=run.fence, stop_requested=False) & (Q(status=S.QUEUED) | _lost())
    fence = run.fence + 1
    with transaction.atomic():
        lost = run.attempts.filter(number=run.fence, ended=None)
        taken = _change(
            run.pk,
            S.PREPARING,
            free,
            f"Attempt {fence} begins.",
            worker,
            fence=fence,
            lease_owner=worker,
            lease_expires=now + TTL,
            started=Coalesce("started", Value(now, models.DateTimeField())),
            phase="Starting",
        )
        if taken:
            lost.update(ended=now, outcome="lost", reason="Its worker went silent.")
            Attempt.objects.create(run_id=run.pk, number=fence, worker=worker, device=device)
    return taken


def _refuse(run: Run) -> bool:
    """Ends a run that lost its worker too often at the same place, instead of trying for ever."""
    if run.status == S.QUEUED:
        return False
    reached = run.artifacts.filter(kind=Artifact.Kind.RESUME).aggregate(last=Max("fence"))["last"] or 0
    # The current attempt is lost as well, though nobody has written so yet.
    silent = 1 + run.attempts.filter(outcome="lost", number__gt=reached).count()
    if run.fence == reached or silent < MAX_LOST:
        return False
    reason = (
        f"Its worker went silent {silent} times at step {run.step} ({run.phase or 'starting'}): something "
        "there kills the whole worker. Look at the worker's log and the machine's memory, then clone the run."
    )
    return _fail(run.pk, Q(fence=run.fence) & _lost(), reason, "sweep")


def renew(run_id: int, fence: int) -> bool:
    """Keeps the lease. False: the run belongs to somebody else now, stop at once."""
    return bool(Run.objects.filter(_held(fence), pk=run_id).update(lease_expires=timezone.now() + TTL))


def stop_wanted(run_id: int) -> bool:
    return Run.objects.filter(pk=run_id, stop_requested=True).exists()


def write(run_id: int, fence: int, **values: Any) -> bool:
    """Progress, phase, summary: whatever a worker reports between two status changes. False: fenced off."""
    values = values or {"fence": fence}
    return bool(Run.objects.filter(_held(fence), pk=run_id).update(**values))


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
        "finished": timezone.now(),
        "phase": "",
        "eta": None,
    }
    steps = result.get("steps")
    if isinstance(steps, int):
        values["step"] = values["total_steps"] = steps
    with transaction.atomic():
        done = _change(run_id, S.SUCCEEDED, Q(fence=fence), "Finished.", **values, **FREE)
        return done and _end_attempt(run_id, fence, "succeeded")


def fail(run_id: int, fence: int, reason: str) -> bool:
    with transaction.atomic():
        done = _fail(run_id, Q(fence=fence), reason)
        return done and _end_attempt(run_id, fence, "failed", reason)


def _fail(run_id: int, condition: Q, reason: str, actor: object = "") -> bool:
    return _change(
        run_id,
        S.FAILED,
        condition,
        f"Failed: {reason}",
        actor,
        reason=reason,
        finished=timezone.now(),
        eta=None,
        **FREE,
    )


def stopped(run_id: int, fence: int) -> bool:
    """The engine ended early: a person asked for it, or its worker shuts down and another shall go on."""
    asked, not_asked = Q(fence=fence, stop_requested=True), Q(fence=fence, stop_requested=False)
    with transaction.atomic():
        if _cancel(run_id, asked, "Stopped by request."):
            return _end_attempt(run_id, fence, "cancelled")
        text = "Its worker shuts down; the run goes back to the queue."
        if not _change(run_id, S.QUEUED, not_asked, text, phase="Waiting for a worker", eta=None, **FREE):
            return False
        queue.send_run(Run(pk=run_id))
        return _end_attempt(run_id, fence, "handed back")


def _end_attempt(run_id: int, fence: int, outcome: str, reason: str = "") -> bool:
    attempts = Attempt.objects.filter(run_id=run_id, number=fence)
    attempts.update(ended=timezone.now(), outcome=outcome, reason=reason)
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
    send_waiting(Q(teacher__made_by=run_id) | Q(Exists(_beside().filter(teacher__made_by=run_id))))


def send_waiting(condition: Q) -> None:
    """What these runs waited for is there: nudge the workers now instead of at the next sweep."""
    for run in Run.objects.filter(condition, status=S.QUEUED):
        queue.send_run(run)


# --- The sweep --------------------------------------------------------------------------------------------
def sweep() -> None:
    """Ends what cannot go on, nudges for what should run and does not. Sweeps may overlap."""
    for run in Run.objects.filter(_lost(), stop_requested=True):
        _cancel(run.pk, _lost(), "Stopped by request; its worker had gone silent.", "sweep")
    for run in Run.objects.filter(status=S.QUEUED, stop_requested=True):
        _cancel(run.pk, Q(stop_requested=True, status=S.QUEUED), "Cancelled before it started.", "sweep")
    _fail_orphans()
    waiting = [run for run in candidates(limit=200) if not _refuse(run)]
    held = queue.waiting_messages(queue.RUNS) if waiting else None
    for run in waiting[held:] if held is not None else ():
        queue.send_run(run)


def _fail_orphans() -> None:
    """Runs that wait for a dataset or a teacher that will not come."""
    gone = Q(dataset__status=Readiness.FAILED) | Q(teacher__status=Readiness.FAILED)
    gone |= Q(Exists(_beside().filter(teacher__status=Readiness.FAILED)))
    waits = Q(status=S.QUEUED) | _lost()
    for run in Run.objects.filter(gone, waits).select_related("dataset", "teacher")[:200]:
        if run.dataset.status == Readiness.FAILED:
            reason = f"Its dataset “{run.dataset}” could not be prepared: {run.dataset.error}"
        else:
            teacher = next(one for one in run.teachers if one.status == Readiness.FAILED)
            reason = f"Its teacher “{teacher}” is not there: {teacher.error}"
        _fail(run.pk, waits, reason, "sweep")
