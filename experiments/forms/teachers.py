"""The fields of a new run that choose teachers: who can teach on a dataset, and why the others cannot."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext as _

from experiments.models import Dataset, Teacher
from experiments.plan_parts import own_classes
from experiments.templatetags.kd import count, pct


class Teachers(forms.widgets.ChoiceWidget):
    """Those that cannot teach on the chosen dataset are shown, greyed, with the reason; limits are said."""

    refused: dict[int, str] = {}
    limited: dict[int, str] = {}

    def create_option(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        option: dict[str, Any] = super().create_option(*args, **kwargs)
        key = getattr(option["value"], "value", option["value"])
        if said := self.refused.get(key) or self.limited.get(key):
            option["label"] = f"{option['label']} ({said})"
        if key in self.refused:
            option["attrs"]["disabled"] = True
        return option


class TeacherSelect(Teachers, forms.Select):
    pass


class TeacherBoxes(Teachers, forms.CheckboxSelectMultiple):
    pass


class TeacherLabel:
    def label_from_instance(self, obj: Any) -> str:
        if obj.status == Teacher.Status.PREPARING:
            return " · ".join([obj.name, _("in the making")])
        size = _("%(n)s parameters") % {"n": count(obj.metrics.get("parameters"))}
        return " · ".join([obj.name, pct(obj.score), size])


class TeacherField(TeacherLabel, forms.ModelChoiceField):  # type: ignore[type-arg]  # not generic at run time
    pass


class MoreTeachersField(TeacherLabel, forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    pass


def why_not(teacher: Teacher, dataset: Dataset | None) -> str:
    """Why a teacher cannot teach on a dataset; empty if it can."""
    if teacher.status == Teacher.Status.FAILED:
        return _("failed")
    if dataset is None or teacher.dataset_id == dataset.pk or not dataset.classes:
        return ""
    if teacher.dataset.channels != dataset.channels:
        text = _("%(ours)s channels; %(dataset)s has %(theirs)s")
        return text % {
            "ours": teacher.dataset.channels,
            "dataset": dataset.name,
            "theirs": dataset.channels,
        }
    return ""


def limits(teacher: Teacher, dataset: Dataset | None) -> str:
    """What a teacher of another label set cannot be used for; empty if there is nothing to say."""
    if dataset is None or not own_classes(teacher, dataset):
        return ""
    text = _("%(ours)s classes; %(dataset)s has %(theirs)s: features only")
    return text % {
        "ours": teacher.dataset.num_classes,
        "dataset": dataset.name,
        "theirs": dataset.num_classes,
    }
