"""Top-1 accuracy (mAP on multi-label data), with the teacher and the control as the two lines to look at."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments import measurements

from ._parts import Figure, View, curve, layout, percent_axis, reference_lines

KEY = "accuracy"
TITLE = gettext_lazy("Accuracy")
SECTION = gettext_lazy("Learning")
ORDER = 12
SCOPES = ("run", "compare")
SERIES = ("val/top1", "train/top1", "val/map", "val/f1", "train/f1")
SCORES = {
    "val/top1": gettext_lazy("top-1 accuracy"),
    "val/map": gettext_lazy("mAP"),
}  # what runs are ranked by
STYLES = {
    "val/top1": (gettext_lazy("validation"), "series-1", 2.0, True),
    "train/top1": (gettext_lazy("training"), "series-2", 1.2, False),
    "val/map": (gettext_lazy("validation mAP"), "series-1", 2.0, True),
    "val/f1": (gettext_lazy("validation F1, micro"), "series-3", 1.2, False),
    "train/f1": (gettext_lazy("training F1, micro"), "series-2", 1.2, False),
}


def title(view: View) -> str:
    """Multi-label data are judged by their mAP."""
    kinds = {subject.run.dataset.multi_label for subject in view.subjects}
    if kinds == {True}:
        return _("mAP")
    return _("Accuracy or mAP") if True in kinds else str(TITLE)


def figure(view: View) -> Figure | str:
    if view.scope == "compare":
        traces = [trace for name in SCORES for trace in view.overlaid(name)]
    else:
        traces = []
        for name in view.subjects[0].matching(*SERIES):
            text, color, width, front = STYLES[name]
            traces.append(curve(view.run, name, label=str(text), color=color, width=width, front=front))
        traces += [trace for name in SCORES for trace in view.of_control(name)] if traces else []
    if not traces:
        return _("Accuracy appears after the first epoch.")
    lines = references(view)
    shapes, notes = reference_lines(lines)
    axis = percent_axis(*(value for _, value in lines.values()))
    drawn = {trace["meta"]["series"] for trace in traces}
    scores = {name: words for name, words in SCORES.items() if name in drawn}
    title = _("accuracy or mAP") if len(scores) > 1 else str(next(iter(scores.values()), _("accuracy")))
    return {
        "data": traces,
        "layout": layout(title, **axis) | {"shapes": shapes, "annotations": notes},
    }


def references(view: View) -> dict[str, tuple[str, float]]:
    """The teacher where all runs share one; the control's final accuracy on the page of a run."""
    teachers = {s.run.teacher_id: s.run for s in view.subjects if s.run.teacher_id}
    lines: dict[str, tuple[str, float]] = {}
    if len(teachers) == 1:
        (run,) = teachers.values()
        if (accuracy := run.teacher_accuracy) is not None:
            lines["teacher"] = (_("Teacher"), accuracy)
        together = measurements.score(run.results.get("ensemble")) if view.scope == "run" else None
        if together is not None:
            lines["series-6"] = (_("Teachers together"), together)
    if view.control and view.control.run.ended and view.control.run.accuracy is not None:
        lines["control"] = (_("Control"), view.control.run.accuracy)
    return lines
