"""What a run is sought, sorted and grouped by: its parameters and results as rows of `RunValue`.

The run's own JSON stays the truth; this is a copy that the database can work with. It is written when a run
is made, when it ends, and when what it is compared with ends. Keys are what people type: `learning_rate`,
`kd.temperature`, `ece`, `gap_closed`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.db.models.signals import pre_delete
from django.dispatch import receiver

from . import measurements
from .models import Run, RunValue

Value = float | str
# Of a result's network: what has a column of its own, or is no number to rank by.
ELSEWHERE = {"score", "top1", "map", "parameters", "bytes", "flops", "latency_p50_ms", "throughput_batch"}
RATIOS = {  # teacher ÷ student
    "ratio": "parameters",
    "ratio_bytes": "bytes",
    "ratio_flops": "flops",
    "ratio_memory": "peak_memory",
    "speed_up": "latency_p50_ms",
}
OF_THE_CONTROL = ("gain", "gap_closed")
NEEDED = ("student", "teacher", "control")


def parameters(run: Run) -> dict[str, Value]:
    """What was asked for, key by key. A method's parameter is there as `kd.temperature` and, of the first
    method that has it, as `temperature`."""
    found: dict[str, Any] = dict(run.training)
    for key in ("task_weight", "label_smoothing", "class_weights"):
        found[key] = run.objective.get(key)
    found["pretrained"] = bool(run.student and run.student.pretrained)
    found["frozen_stages"] = run.frozen_stages
    found["mixing"] = run.mixing.get("kind")
    found["settings"] = settings(run)
    for key, value in _terms(run):
        found[key] = value
        found.setdefault(key.partition(".")[2], value)
    return {key: value for key, raw in found.items() if (value := _plain(raw)) is not None}


def settings(run: Run) -> str:
    """The same for runs that differ in nothing but the seed: what means over seeds are taken by."""
    training = {key: value for key, value in run.training.items() if key != "seed"}
    beside = list(run.beside.values_list("teacher_id", flat=True)) if run.mixing else []
    networks = [run.architecture_id, run.student_id, run.frozen_stages, run.teacher_id, beside]
    whole = [run.purpose, run.dataset_id, networks, run.mixing, run.objective, training]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def _terms(run: Run) -> Iterator[tuple[str, Any]]:
    seen: dict[str, int] = {}
    for term in run.objective.get("terms") or []:
        method = term["method"]
        seen[method] = number = seen.get(method, 0) + 1
        name = method if number == 1 else f"{method}_{number}"
        yield f"{name}.weight", term.get("weight")
        yield from ((f"{name}.{key}", value) for key, value in (term.get("params") or {}).items())
        if (kind := (term.get("schedule") or {}).get("kind", "constant")) != "constant":
            yield f"{name}.course", kind


def results(run: Run) -> dict[str, Value]:
    """What was measured, and how it compares with the teacher and the control."""
    student = run.results.get("student") or {}
    found: dict[str, Any] = {
        key: value
        for key, value in student.items()
        if key not in ELSEWHERE and isinstance(value, int | float) and not isinstance(value, bool)
    }
    found |= _compared(run) | _ratios(run)
    found["device"] = run.results.get("device")
    return {key: value for key, raw in found.items() if (value := _plain(raw)) is not None}


def _compared(run: Run) -> dict[str, float | None]:
    """Against teacher and control, as `Run` says it; from fields alone, so that a migration can ask too."""
    measured, control = run.status == "succeeded", run.control
    teacher = measurements.score(run.results.get("teacher"))
    if teacher is None and run.teacher is not None and run.teacher.dataset_id == run.dataset_id:
        teacher = measurements.score(run.teacher.metrics)
    found: dict[str, float | None] = {"teacher_acc": teacher}
    if not measured or run.accuracy is None:
        return found
    if teacher is not None:
        found["delta"] = run.accuracy - teacher
    if control is not None and control.status == "succeeded" and control.accuracy is not None:
        found["gain"] = gain = run.accuracy - control.accuracy
        if teacher is not None and teacher > control.accuracy:
            found["gap_closed"] = gain / (teacher - control.accuracy)
    return found


def _ratios(run: Run) -> dict[str, float]:
    """Measured on both in the run; else the teacher's own parameters over the student's."""
    teacher, student = run.results.get("teacher") or {}, run.results.get("student") or {}
    both = {key: (teacher.get(cost), student.get(cost)) for key, cost in RATIOS.items()}
    found = {key: theirs / ours for key, (theirs, ours) in both.items() if theirs and ours}
    if not found and run.teacher and run.parameters and run.teacher.metrics.get("parameters"):
        found["ratio"] = run.teacher.metrics["parameters"] / run.parameters
    return found


def _plain(value: Any) -> Value | None:
    """A number or a short text; None for what says nothing."""
    match value:
        case None | "" | [] | {}:
            return None
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return float(value) if abs(value) < float("inf") else None  # NaN as well: it compares false
        case list():
            return ", ".join(str(one) for one in value)[:200]
        case _:
            return str(value)[:200]


def rows(run: Run, row: type[RunValue] = RunValue) -> Iterator[RunValue]:
    """Needs student, teacher and control loaded."""
    for key, value in (parameters(run) | results(run)).items():
        number, text = (None, value) if isinstance(value, str) else (value, "")
        yield row(run_id=run.pk, key=key[:120], number=number, text=text)


def keep(condition: Q) -> None:
    """Writes anew what is kept of these runs."""
    with transaction.atomic():
        runs = list(Run.objects.filter(condition).select_related(*NEEDED).defer("metrics", "notes"))
        RunValue.objects.filter(run__in=[run.pk for run in runs]).delete()
        RunValue.objects.bulk_create((row for run in runs for row in rows(run)), batch_size=1000)


def made(run: Run) -> None:
    """A run was just created."""
    RunValue.objects.bulk_create(rows(run))


def ended(run_id: int) -> None:
    """A run was measured: its own results, the gain of those it is the control of, and what is known of
    those that learn from the teacher it made."""
    keep(Q(pk=run_id) | Q(control=run_id) | Q(teacher__made_by=run_id))


@receiver(pre_delete, sender=Run)
def _forget_control(instance: Run, **_: Any) -> None:
    """Nothing is gained over a control that is gone."""
    RunValue.objects.filter(run__control=instance, key__in=OF_THE_CONTROL).delete()
