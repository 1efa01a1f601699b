"""The numbers at the top of a run's page. A number that is not there says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments import measurements
from experiments.models import Run
from experiments.templatetags.kd import (
    NOTHING,
    count,
    filesize,
    flops,
    milliseconds,
    pct,
    points,
    ratio,
    sig,
)

VERBS = {"latency": "faster", "throughput": "higher", "flops": "less work"}


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    foot: str = ""
    series: str = ""  # teacher, control or student: the colour of its curve


def accuracy(run: Run) -> list[Tile]:
    """Student, teacher, control, gain, gap closed."""
    if run.purpose == Run.Purpose.DISTIL:
        return [_student(run), _teacher(run), *_ensemble(run), _control(run), _gain(run), _gap_closed(run)]
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
        ("peak_memory", "Peak memory", "peak_memory", filesize),
        ("throughput", "Throughput", "throughput", per_second),
    ):
        mine = show(student.get(key))
        if student and key not in student:
            continue  # measured by an earlier version
        if run.purpose != Run.Purpose.DISTIL:
            tiles.append(Tile(label, mine, "" if student else _not_yet(run)))
        elif name in ratios:
            tiles.append(
                Tile(
                    f"{label}, {VERBS.get(name, 'smaller')}",
                    ratio(ratios[name]),
                    f"{show(teacher.get(key))} → {mine}",
                )
            )
        else:
            tiles.append(Tile(label, NOTHING, _not_yet(run)))
    return [*tiles, *_smaller_files(student)]


def _smaller_files(student: dict[str, Any]) -> list[Tile]:
    """What half and quarter precision would save. Accuracy was measured in fp32 alone, and that is said."""
    half, quarter = student.get("bytes_fp16"), student.get("bytes_int8")
    if not (half and quarter):
        return []
    return [Tile("Size as int8", filesize(quarter), f"fp16 {filesize(half)}; accuracy is that of fp32")]


def fidelity(run: Run) -> list[Tile]:
    """What top-1 does not say: likeness to the teacher, calibration, F1. Only what was measured."""
    student: dict[str, Any] = run.results.get("student") or {}
    teacher: dict[str, Any] = run.results.get("teacher") or {}
    alike = "labels decided alike" if measurements.is_multi_label(student) else "samples with the same top-1"
    tiles = [
        ("agreement", "Agreement with teacher", pct, alike),
        ("kl", "KL to teacher", sig, "teacher ‖ student, T = 1"),
        ("ece", "Calibration error", pct, _beside(teacher, "ece") or "ECE, 15 bins"),
        ("top5", "Top-5", pct, _beside(teacher, "top5")),
        ("f1_micro", "F1, micro", pct, _beside(teacher, "f1_micro")),
        ("f1_macro", "F1, macro", pct, _beside(teacher, "f1_macro")),
        ("exact_match", "Exact match", pct, "samples with all labels right"),
    ]
    return [
        Tile(label, show(student[key]), foot)
        for key, label, show, foot in tiles
        if student.get(key) is not None
    ]


def _beside(teacher: dict[str, Any], key: str) -> str:
    return f"teacher {pct(teacher[key])}" if teacher.get(key) is not None else ""


def per_second(value: object) -> str:
    return NOTHING if value is None else f"{count(value)}/s"


def _not_yet(run: Run) -> str:
    if not run.ended:
        return "measured at the end"
    return "not measured" if run.status == Run.Status.SUCCEEDED else "the run did not finish"


def _accuracy(run: Run) -> str:
    return "mAP" if run.metric == "mAP" else "accuracy"


def _student(run: Run) -> Tile:
    label = "Teacher" if run.purpose == Run.Purpose.TEACHER else "Student"
    if run.accuracy is None:
        why = _not_yet(run) if run.ended else "after the first epoch"
        return Tile(f"{label} {_accuracy(run)}", NOTHING, why, "student")
    if not run.measured:
        return Tile(
            f"{label} {_accuracy(run)}",
            pct(run.accuracy),
            f"best validation {'before it ended' if run.ended else 'so far'}",
            "student",
        )
    split = (run.results.get("student") or {}).get("split", "test")
    return Tile(
        f"{label} {_accuracy(run)}",
        pct(run.accuracy),
        f"{run.metric} on the {'validation' if split == 'val' else split} split",
        "student",
    )


def _teacher(run: Run) -> Tile:
    name = run.teacher.name if run.teacher else "no teacher"
    if run.teacher_accuracy is None:
        why = "of other classes" if run.results.get("teacher") else "not measured yet"
        return Tile(f"Teacher {_accuracy(run)}", NOTHING, f"{name}, {why}", "teacher")
    return Tile(f"Teacher {_accuracy(run)}", pct(run.teacher_accuracy), name, "teacher")


def _ensemble(run: Run) -> list[Tile]:
    """Several teachers as one."""
    score = measurements.score(run.results.get("ensemble"))
    if score is None:
        return []
    count = len(run.results.get("teachers") or [])
    return [Tile("Teachers together", pct(score), f"{count} teachers, {run.mixing.get('kind', 'mean')}")]


def _control(run: Run) -> Tile:
    why = no_control(run)
    if why or run.control is None:
        return Tile(f"Control {_accuracy(run)}", NOTHING, why, "control")
    return Tile(f"Control {_accuracy(run)}", pct(run.control.accuracy), "the same student alone", "control")


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
