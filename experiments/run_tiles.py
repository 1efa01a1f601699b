"""The numbers at the top of a run's page. A number that is not there says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from experiments import measurements
from experiments.models import Run
from experiments.states import STATUSES
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

ACCURACY = {
    "student": gettext_lazy("Student accuracy"),
    "teacher": gettext_lazy("Teacher accuracy"),
    "control": gettext_lazy("Control accuracy"),
}
MAP = {
    "student": gettext_lazy("Student mAP"),
    "teacher": gettext_lazy("Teacher mAP"),
    "control": gettext_lazy("Control mAP"),
}


def per_second(value: object) -> str:
    return NOTHING if value is None else f"{count(value)}/s"


# name of the ratio, the plain size, how much less of it, key of the measurement, how it is written
SIZES = (
    ("parameters", gettext_lazy("Parameters"), gettext_lazy("Parameters, smaller"), "parameters", count),
    ("bytes", gettext_lazy("Size"), gettext_lazy("Size, smaller"), "bytes", filesize),
    ("flops", gettext_lazy("FLOPs"), gettext_lazy("FLOPs, less work"), "flops", flops),
    ("latency", gettext_lazy("Latency"), gettext_lazy("Latency, faster"), "latency_p50_ms", milliseconds),
    (
        "peak_memory",
        gettext_lazy("Peak memory"),
        gettext_lazy("Peak memory, smaller"),
        "peak_memory",
        filesize,
    ),
    ("throughput", gettext_lazy("Throughput"), gettext_lazy("Throughput, higher"), "throughput", per_second),
)


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
    for name, label, less, key, show in SIZES:
        mine = show(student.get(key))
        if student and key not in student:
            continue  # measured by an earlier version
        if run.purpose != Run.Purpose.DISTIL:
            tiles.append(Tile(str(label), mine, "" if student else _not_yet(run)))
        elif name in ratios:
            tiles.append(Tile(str(less), ratio(ratios[name]), f"{show(teacher.get(key))} → {mine}"))
        else:
            tiles.append(Tile(str(label), NOTHING, _not_yet(run)))
    return [*tiles, *_smaller_files(student)]


def _smaller_files(student: dict[str, Any]) -> list[Tile]:
    """What half and quarter precision would save. Accuracy was measured in fp32 alone, and that is said."""
    half, quarter = student.get("bytes_fp16"), student.get("bytes_int8")
    if not (half and quarter):
        return []
    foot = _("fp16 %(size)s; accuracy is that of fp32") % {"size": filesize(half)}
    return [Tile(_("Size as int8"), filesize(quarter), foot)]


def fidelity(run: Run) -> list[Tile]:
    """What top-1 does not say: likeness to the teacher, calibration, F1. Only what was measured."""
    student: dict[str, Any] = run.results.get("student") or {}
    teacher: dict[str, Any] = run.results.get("teacher") or {}
    many = measurements.is_multi_label(student)
    alike = _("labels decided alike") if many else _("samples with the same top-1")
    tiles = [
        ("agreement", _("Agreement with teacher"), pct, alike),
        ("kl", _("KL to teacher"), sig, _("teacher ‖ student, T = 1")),
        ("ece", _("Calibration error"), pct, _beside(teacher, "ece") or _("ECE, 15 bins")),
        ("top5", _("Top-5"), pct, _beside(teacher, "top5")),
        ("f1_micro", _("F1, micro"), pct, _beside(teacher, "f1_micro")),
        ("f1_macro", _("F1, macro"), pct, _beside(teacher, "f1_macro")),
        ("exact_match", _("Exact match"), pct, _("samples with all labels right")),
    ]
    return [
        Tile(label, show(student[key]), foot)
        for key, label, show, foot in tiles
        if student.get(key) is not None
    ]


def _beside(teacher: dict[str, Any], key: str) -> str:
    return _("teacher %(value)s") % {"value": pct(teacher[key])} if teacher.get(key) is not None else ""


def _not_yet(run: Run) -> str:
    if not run.ended:
        return _("measured at the end")
    return _("not measured") if run.status == Run.Status.SUCCEEDED else _("the run did not finish")


def _of(run: Run, who: str) -> str:
    """Student accuracy, or Student mAP."""
    return str((MAP if run.metric == "mAP" else ACCURACY)[who])


def _student(run: Run) -> Tile:
    label = _of(run, "teacher" if run.purpose == Run.Purpose.TEACHER else "student")
    if run.accuracy is None:
        why = _not_yet(run) if run.ended else _("after the first epoch")
        return Tile(label, NOTHING, why, "student")
    if not run.measured:
        foot = _("best validation before it ended") if run.ended else _("best validation so far")
        return Tile(label, pct(run.accuracy), foot, "student")
    split = (run.results.get("student") or {}).get("split", "test")
    text = _("%(metric)s on the validation split") if split == "val" else _("%(metric)s on the test split")
    return Tile(label, pct(run.accuracy), text % {"metric": run.metric}, "student")


def _teacher(run: Run) -> Tile:
    name = run.teacher.name if run.teacher else _("no teacher")
    if run.teacher_accuracy is None:
        why = _("of other classes") if run.results.get("teacher") else _("not measured yet")
        return Tile(_of(run, "teacher"), NOTHING, f"{name}, {why}", "teacher")
    return Tile(_of(run, "teacher"), pct(run.teacher_accuracy), name, "teacher")


def _ensemble(run: Run) -> list[Tile]:
    """Several teachers as one."""
    score = measurements.score(run.results.get("ensemble"))
    if score is None:
        return []
    words = {"n": len(run.results.get("teachers") or []), "mixed": run.mixing.get("kind", "mean")}
    return [Tile(_("Teachers together"), pct(score), _("%(n)s teachers, %(mixed)s") % words)]


def _control(run: Run) -> Tile:
    why = no_control(run)
    if why or run.control is None:
        return Tile(_of(run, "control"), NOTHING, why, "control")
    return Tile(_of(run, "control"), pct(run.control.accuracy), _("the same student alone"), "control")


def no_control(run: Run) -> str:
    """Why the control says nothing; empty if it does."""
    control = run.control
    if control is None:
        return _("no control was run")
    if not control.ended:
        return _("the control is %(state)s") % {
            "state": str(STATUSES.get(control.state, control.state)).lower()
        }
    if not control.measured:
        cancelled = control.status == Run.Status.CANCELLED
        return _("the control was cancelled") if cancelled else _("the control failed")
    return ""


def _gain(run: Run) -> Tile:
    label = _("Distillation gain")
    if run.gain is None:
        return Tile(label, NOTHING, no_control(run) or _not_yet(run))
    return Tile(label, points(run.gain), _("points over the control"))


def _gap_closed(run: Run) -> Tile:
    label = _("Gap closed")
    if run.gap_closed is not None:
        return Tile(label, pct(run.gap_closed, 0), _("of teacher − control"))
    if run.gain is None:
        return Tile(label, NOTHING, no_control(run) or _not_yet(run))
    if run.teacher_accuracy is None:
        return Tile(label, NOTHING, _("the teacher is not measured"))
    return Tile(label, NOTHING, _("the teacher is no better than the control"))


def _used_by(run: Run) -> Tile:
    number = run.controlled.count()
    return Tile(_("Control of"), str(number), ngettext("run", "runs", number))
