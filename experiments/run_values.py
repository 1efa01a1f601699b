"""What a run is sought, sorted and grouped by: its parameters and results as rows of `RunValue`.

The run's own JSON stays the truth; this is a copy that the database can work with. It is written when a run
is made, when it ends, and when what it is compared with ends. Keys are what people type: `learning_rate`,
`kd.temperature`, `ece`, `gap_closed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.db import transaction
from django.db.models import Q

from .models import Run, RunValue

Value = float | str
# Of a result's network: what has a column of its own, or is no number to rank by.
ELSEWHERE = {"score", "top1", "map", "parameters", "bytes", "flops", "latency_p50_ms", "throughput_batch"}
COMPARED = {
    "teacher_acc": "teacher_accuracy",
    "delta": "delta_teacher",
    "gain": "gain",
    "gap_closed": "gap_closed",
}
RATIOS = {
    "ratio": "parameters",
    "ratio_bytes": "bytes",
    "ratio_flops": "flops",
    "ratio_memory": "peak_memory",
    "speed_up": "latency",
}
OF_THE_CONTROL = ("gain", "gap_closed")
NEEDED = ("dataset", "student", "teacher", "control")


def parameters(run: Run) -> dict[str, Value]:
    """What was asked for, key by key. A method's parameter is there as `kd.temperature` and, of the first
    method that has it, as `temperature`."""
    found: dict[str, Any] = dict(run.training)
    for key in ("task_weight", "label_smoothing", "class_weights"):
        found[key] = run.objective.get(key)
    found["pretrained"] = bool(run.student and run.student.pretrained)
    found["frozen_stages"] = run.frozen_stages
    found["mixing"] = run.mixing.get("kind")
    for key, value in _terms(run):
        found[key] = value
        found.setdefault(key.partition(".")[2], value)
    return {key: value for key, raw in found.items() if (value := _plain(raw)) is not None}


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
    found |= {key: getattr(run, name) for key, name in COMPARED.items()}
    ratios = run.compression() or _expected(run)
    found |= {key: ratios.get(name) for key, name in RATIOS.items()}
    found["device"] = run.results.get("device")
    return {key: value for key, raw in found.items() if (value := _plain(raw)) is not None}


def _expected(run: Run) -> dict[str, float]:
    """Before both were measured in the run: the teacher's own number of parameters counts."""
    theirs = run.teacher.metrics.get("parameters") if run.teacher else None
    return {"parameters": theirs / run.parameters} if theirs and run.parameters else {}


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


def rows(run: Run) -> Iterator[RunValue]:
    """Needs dataset, student, teacher and control loaded."""
    for key, value in (parameters(run) | results(run)).items():
        number, text = (None, value) if isinstance(value, str) else (value, "")
        yield RunValue(run_id=run.pk, key=key[:120], number=number, text=text)


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


def forget_controls(runs: Iterable[int]) -> None:
    """Controls are about to be deleted: nothing is gained over them any more."""
    RunValue.objects.filter(run__control__in=list(runs), key__in=OF_THE_CONTROL).delete()
