"""The numbers at the top of a run's page. A number that is not there says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.models import Run
from experiments.templatetags.kd import NOTHING, count, filesize, flops, milliseconds, pct, points, ratio


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    foot: str = ""
    series: str = ""  # teacher, control or student: the colour of its curve


def accuracy(run: Run) -> list[Tile]:
    """Student, teacher, control, gain, gap closed."""
    if run.purpose == Run.Purpose.DISTIL:
        return [_student(run), _teacher(run), _control(run), _gain(run), _gap_closed(run)]
    if run.purpose == Run.Purpose.CONTROL:
        return [_student(run), _used_by(run)]
    return [_student(run)]


def size(run: Run) -> list[Tile]:
    """Compression, or the plain sizes of a network that was trained alone."""
    student: dict[str, Any] = run.results.get("student") or {}
    teacher: dict[str, Any] = run.results.get("teacher") or {}
    ratios = run.compression()
    tiles = []
    for name, label, key, show in (
        ("parameters", "Parameters", "parameters", count),
        ("bytes", "Size", "bytes", filesize),
        ("flops", "FLOPs", "flops", flops),
        ("latency", "Latency", "latency_p50_ms", milliseconds),
    ):
        mine = show(student.get(key))
        if run.purpose != Run.Purpose.DISTIL:
            tiles.append(Tile(label, mine, "" if student else _not_yet(run)))
        elif name in ratios:
            verb = "faster" if name == "latency" else "smaller" if name != "flops" else "less work"
            tiles.append(Tile(f"{label}, {verb}", ratio(ratios[name]), f"{show(teacher.get(key))} → {mine}"))
        else:
            tiles.append(Tile(label, NOTHING, _not_yet(run)))
    return tiles


def _not_yet(run: Run) -> str:
    if not run.ended:
        return "measured at the end"
    return "not measured" if run.status == Run.Status.SUCCEEDED else "the run did not finish"


def _student(run: Run) -> Tile:
    label = "Teacher" if run.purpose == Run.Purpose.TEACHER else "Student"
    if run.accuracy is None:
        why = _not_yet(run) if run.ended else "after the first epoch"
        return Tile(f"{label} accuracy", NOTHING, why, "student")
    if not run.measured:
        return Tile(
            f"{label} accuracy",
            pct(run.accuracy),
            f"best validation {'before it ended' if run.ended else 'so far'}",
            "student",
        )
    split = (run.results.get("student") or {}).get("split", "test")
    return Tile(
        f"{label} accuracy",
        pct(run.accuracy),
        f"top-1 on the {'validation' if split == 'val' else split} split",
        "student",
    )


def _teacher(run: Run) -> Tile:
    name = run.teacher.name if run.teacher else "no teacher"
    if run.teacher_accuracy is None:
        return Tile("Teacher accuracy", NOTHING, f"{name}, not measured yet", "teacher")
    return Tile("Teacher accuracy", pct(run.teacher_accuracy), name, "teacher")


def _control(run: Run) -> Tile:
    why = no_control(run)
    if why or run.control is None:
        return Tile("Control accuracy", NOTHING, why, "control")
    return Tile("Control accuracy", pct(run.control.accuracy), "the same student alone", "control")


def no_control(run: Run) -> str:
    """Why the control says nothing; empty if it does."""
    control = run.control
    if control is None:
        return "no control was run"
    if not control.ended:
        return f"the control is {control.state}"
    if not control.measured:
        return "the control was cancelled" if control.status == "cancelled" else "the control failed"
    return ""


def _gain(run: Run) -> Tile:
    label = "Distillation gain"
    if run.gain is None:
        return Tile(label, NOTHING, no_control(run) or _not_yet(run))
    return Tile(label, points(run.gain), "points over the control")


def _gap_closed(run: Run) -> Tile:
    if run.gap_closed is not None:
        return Tile("Gap closed", pct(run.gap_closed, 0), "of teacher − control")
    if run.gain is None:
        return Tile("Gap closed", NOTHING, no_control(run) or _not_yet(run))
    if run.teacher_accuracy is None:
        return Tile("Gap closed", NOTHING, "the teacher is not measured")
    return Tile("Gap closed", NOTHING, "the teacher is no better than the control")


def _used_by(run: Run) -> Tile:
    number = run.controlled.count()
    return Tile("Control of", str(number), "run" if number == 1 else "runs")
