"""The form of a new run. It says what was typed as a `Plan`; `planning` judges it."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.http import QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments import plan_facts
from experiments.models import Architecture, Dataset, Experiment, Method, Project, Run, Student, Teacher
from experiments.plan_parts import Problem
from experiments.planning import Plan
from experiments.templatetags.kd import count
from worker.distill.spec import Mixing, Objective, Training

from .schema import build_fields
from .teachers import MoreTeachersField, TeacherBoxes, TeacherField, TeacherSelect, limits, why_not
from .terms import EMPTY, TermForm, term_rows

TRAINING_SCHEMA, MIXING_SCHEMA = Training.model_json_schema(), Mixing.model_json_schema()
FIRST_TRAINING = ("epochs", "batch_size", "learning_rate", "seed")  # the rest lies under "more"
MORE_TRAINING = {
    gettext_lazy("Optimiser"): (
        "optimizer",
        "momentum",
        "weight_decay",
        "clip_norm",
        "accumulate",
        "ema_decay",
    ),
    gettext_lazy("Schedule"): (
        "schedule",
        "milestones",
        "step_factor",
        "warmup_epochs",
        "early_stop",
        "early_stop_metric",
    ),
    gettext_lazy("Augmentation"): ("augment", "views", "mixup", "cutmix"),
    gettext_lazy("Precision"): ("precision",),
}
PURPOSES = [
    ("distil", gettext_lazy("Distil a student")),
    ("control", gettext_lazy("Train a student alone")),
    ("teacher", gettext_lazy("Train a teacher")),
]
PURPOSE_HELP = {
    "distil": gettext_lazy("A small network learns from a teacher."),
    "control": gettext_lazy("The same student without a teacher: what distillation is measured against."),
    "teacher": gettext_lazy("A large network that students can learn from."),
}
CONTROLS = [
    ("run", gettext_lazy("Run the control too")),
    ("none", gettext_lazy("No control")),
]


class RunForm(forms.Form):
    purpose = forms.ChoiceField(
        choices=PURPOSES, widget=forms.RadioSelect, initial="distil", label=gettext_lazy("Purpose")
    )
    dataset = forms.ModelChoiceField(
        Dataset.objects.none(),
        label=gettext_lazy("Dataset"),
        empty_label=gettext_lazy("Choose a dataset"),
    )
    teacher = TeacherField(
        Teacher.objects.none(),
        required=False,
        label=gettext_lazy("Teacher"),
        empty_label=gettext_lazy("Choose a teacher"),
        widget=TeacherSelect,
    )
    more_teachers = MoreTeachersField(
        Teacher.objects.none(), required=False, label=gettext_lazy("Also learn from"), widget=TeacherBoxes
    )
    network = forms.CharField(
        max_length=200,
        required=False,
        label=gettext_lazy("Network"),
        help_text=gettext_lazy("A saved student, or any architecture: type to search."),
    )
    frozen_stages = forms.IntegerField(
        min_value=0,
        max_value=100,
        initial=0,
        required=False,
        label=gettext_lazy("Frozen stages"),
        help_text=gettext_lazy(
            "So many stages of the student, from the input on, keep their weights; the control's too."
        ),
    )
    name = forms.CharField(max_length=120, required=False, label=gettext_lazy("Name"))
    experiment = forms.CharField(
        max_length=100,
        required=False,
        label=gettext_lazy("Experiment"),
        help_text=gettext_lazy("A group of runs. A new name makes a new one."),
    )
    task_weight = forms.FloatField(min_value=0, max_value=1e6, initial=1.0, label=gettext_lazy("Weight"))
    label_smoothing = forms.FloatField(
        min_value=0,
        max_value=0.99,
        initial=0.0,
        required=False,
        label=gettext_lazy("Label smoothing"),
        help_text=gettext_lazy("0 for none."),
    )
    class_weights = forms.ChoiceField(
        choices=[("none", gettext_lazy("none")), ("balanced", gettext_lazy("balanced"))],
        initial="none",
        required=False,
        label=gettext_lazy("Class weights"),
        help_text=gettext_lazy("balanced: rare classes count more in the task loss."),
    )
    seeds = forms.IntegerField(
        min_value=1,
        max_value=20,
        initial=1,
        label=gettext_lazy("Runs"),
        help_text=gettext_lazy("Each with the next seed."),
    )
    control = forms.ChoiceField(
        choices=CONTROLS, initial="run", required=False, label=gettext_lazy("Control")
    )
    submission = forms.UUIDField(widget=forms.HiddenInput, required=False)
    parent = forms.ModelChoiceField(Run.objects.none(), required=False, widget=forms.HiddenInput)

    def __init__(
        self,
        project: Project,
        data: QueryDict | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.project, self.start = project, plan
        self.methods = {method.key: method for method in Method.objects.filter(available=True)}
        super().__init__(data, initial=self._initial(plan) if plan else {"submission": uuid.uuid4()})
        self._choices()
        self.training_names = list(TRAINING_SCHEMA["properties"])
        self.fields |= build_fields(TRAINING_SCHEMA, prefix="training")
        self.fields |= build_fields(MIXING_SCHEMA, prefix="mixing")
        self.fields["mixing-kind"].label, self.fields["mixing-weights"].label = (
            _("Mixed by"),
            _("Teachers' weights"),
        )
        if data is not None:
            rows = [row for row in data.getlist("term") if row.isalnum()][:16]
            # A row that was just added holds nothing yet: it shows its defaults.
            self.terms = [
                TermForm(row, self.methods, data if f"t{row}-method" in data else None) for row in rows
            ]
        else:
            self.terms = term_rows(_shown_objective(plan), self.methods)
        for name in ("teacher", "network", "label_smoothing", "class_weights", "frozen_stages", "control"):
            self.fields[name].has_default = True  # type: ignore[attr-defined]  # needed, or never empty
        for name in ("task_weight", "label_smoothing"):
            self.fields[name].widget.attrs |= {"step": "any", "inputmode": "decimal"}
        self.fields["network"].widget.attrs |= {
            "list": "networks",
            "autocomplete": "off",
            "spellcheck": "false",
        }

    def _choices(self) -> None:
        """Only the project's rows can be chosen."""
        mine = {"project": self.project}
        datasets = Dataset.objects.filter(**mine)
        self.teachers = list(Teacher.objects.filter(**mine).select_related("dataset", "architecture"))
        self.fields["dataset"].queryset = datasets  # type: ignore[attr-defined]
        self.experiments = Experiment.objects.filter(**mine)
        self.fields["experiment"].widget.attrs |= {"list": "experiments", "autocomplete": "off"}
        self.fields["parent"].queryset = Run.objects.filter(**mine)  # type: ignore[attr-defined]
        chosen = self["dataset"].value()
        dataset = datasets.filter(pk=chosen).first() if str(chosen or "").isdecimal() else None
        reasons = {teacher.pk: why_not(teacher, dataset) for teacher in self.teachers}
        limited = {teacher.pk: limits(teacher, dataset) for teacher in self.teachers}
        for name in ("teacher", "more_teachers"):
            self.fields[name].queryset = Teacher.objects.filter(**mine)  # type: ignore[attr-defined]
            widget = self.fields[name].widget
            widget.refused = {key: reason for key, reason in reasons.items() if reason}
            widget.limited = {key: limit for key, limit in limited.items() if limit}

    def _initial(self, plan: Plan) -> dict[str, Any]:
        student = (
            Student.objects.filter(project=self.project, pk=plan.student).first() if plan.student else None
        )
        elsewhere = {"training", "objective", "mixing", "project", "student", "architecture"}
        values = plan.model_dump(exclude=elsewhere)
        training = {f"training-{name}": value for name, value in plan.training.model_dump().items()}
        training |= {f"mixing-{name}": value for name, value in plan.mixing.model_dump().items()}
        objective = _shown_objective(plan).model_dump(exclude={"terms"})
        network = student.name if student else plan.architecture
        rounded = {"task_weight": round(objective["task_weight"], 6)}  # 1 − 0.9 is not 0.1
        return values | training | objective | rounded | {"network": network, "submission": uuid.uuid4()}

    @property
    def main_training(self) -> list[Any]:
        return [self[f"training-{name}"] for name in FIRST_TRAINING]

    @property
    def more_training(self) -> dict[str, list[Any]]:
        """The other fields by group; what the engine has that no group names comes last."""
        groups = {
            str(title): [self[f"training-{name}"] for name in names] for title, names in MORE_TRAINING.items()
        }
        placed = {*FIRST_TRAINING, *(name for names in MORE_TRAINING.values() for name in names)}
        rest = [self[f"training-{name}"] for name in self.training_names if name not in placed]
        groups[_("Task loss")] = [self["label_smoothing"], self["class_weights"]]
        groups[_("Transfer")] = [self["frozen_stages"]]
        return groups | ({_("Further"): rest} if rest else {})

    @property
    def more_has_errors(self) -> bool:
        return any(field.errors for fields in self.more_training.values() for field in fields)

    @property
    def mixing_fields(self) -> list[Any]:
        return [self[f"mixing-{name}"] for name in MIXING_SCHEMA["properties"]]

    @property
    def shows_more_teachers(self) -> bool:
        fields = [self["more_teachers"], *self.mixing_fields]
        return bool(self["more_teachers"].value()) or any(field.errors for field in fields)

    def clean_network(self) -> str:
        return str(self.cleaned_data["network"]).strip()

    def is_valid(self) -> bool:
        rows = [term.is_valid() for term in self.terms if self.distils]
        return bool(super().is_valid()) and all(rows)

    @property
    def distils(self) -> bool:
        return bool(self["purpose"].value() == "distil")

    def plan(self) -> Plan | None:
        """What was typed, with the default where a field is empty or wrong; None without a dataset."""
        values = getattr(self, "cleaned_data", {})
        if values.get("dataset") is None:
            return None
        student = Student.objects.filter(project=self.project, name=values.get("network") or "").first()
        return Plan(
            project=self.project.pk,
            name=values.get("name") or "",
            experiment=values.get("experiment") or "",
            purpose=values.get("purpose") or "distil",
            dataset=values["dataset"].pk,
            student=_key(student),
            architecture="" if student else values.get("network") or "",
            frozen_stages=values.get("frozen_stages") or 0,
            teacher=_key(values.get("teacher")) if self.distils else None,
            more_teachers=[row.pk for row in values.get("more_teachers") or ()] if self.distils else [],
            mixing=Mixing(**_given(values, "mixing-")),
            training=Training(**_given(values, "training-")),
            objective=self._objective(values),
            control=values.get("control") or "none",
            seeds=values.get("seeds") or 1,
            parent=_key(values.get("parent")),
            submission=values.get("submission"),
        )

    def _objective(self, values: dict[str, Any]) -> Objective:
        task = Objective(
            label_smoothing=values.get("label_smoothing") or 0.0,
            class_weights=values.get("class_weights") or "none",
        )
        if not self.distils:
            return task
        weight = values.get("task_weight")
        return Objective(
            task_weight=1.0 if weight is None else weight,
            label_smoothing=task.label_smoothing,
            class_weights=task.class_weights,
            terms=[term.as_term() for term in self.terms],
        )

    def mark(self, problems: list[Problem]) -> None:
        """Put each error at its field, or above the form."""
        for problem in problems:
            if problem.level == "error":
                form, name = self._place(problem.field)
                form.add_error(name, " ".join([_sentence(problem), problem.fix]).strip())

    def _place(self, path: str) -> tuple[forms.Form, str | None]:
        parts = path.split(".")
        match parts:
            case ["training" | "mixing" as part, name]:
                return self, f"{part}-{name}"
            case ["objective", "terms", number, "schedule", name] if int(number) < len(self.terms):
                return self.terms[int(number)], f"s-{name}"
            case ["objective", "terms", number, "params", *rest] if int(number) < len(self.terms):
                term = self.terms[int(number)]
                name = f"p-{'.'.join(rest)}"
                return term, name if name in term.fields else None
            case ["objective", "terms", number, name] if int(number) < len(self.terms):
                return self.terms[int(number)], name
            case ["objective", name]:
                return self, name if name in self.fields else None
            case ["architecture" | "student"]:
                return self, "network"
        return self, path if path in self.fields else None


def _sentence(problem: Problem) -> str:
    value = "" if problem.value in (None, "") else f"{problem.value}: "
    return value + (problem.message if value else problem.message[:1].upper() + problem.message[1:])


def _given(values: dict[str, Any], start: str) -> dict[str, Any]:
    """The cleaned values of a schema's fields; an empty one means the default."""
    return {
        name.removeprefix(start): value
        for name, value in values.items()
        if name.startswith(start) and value not in EMPTY
    }


def _key(row: Any) -> int | None:
    return None if row is None else int(row.pk)


def _shown_objective(plan: Plan | None) -> Objective:
    """The rows of a run without a teacher are hidden; they hold what distilling would begin with."""
    if plan is None or plan.purpose != "distil":
        task = plan.objective if plan else Objective()
        same = {"label_smoothing": task.label_smoothing, "class_weights": task.class_weights}
        return plan_facts.preset("kd").model_copy(update=same)
    return plan.objective


def networks(project: Project, text: str = "") -> list[tuple[str, str]]:
    """(value, label) for the network's suggestions: the project's students first, then architectures."""
    students = Student.objects.filter(project=project, name__icontains=text).select_related("architecture")
    found = [
        (student.name, _("saved student, %(network)s") % {"network": student.architecture_id})
        for student in students[:20]
    ]
    architectures = Architecture.objects.all()
    for word in text.split():
        architectures = architectures.filter(key__icontains=word)
    if not text:
        architectures = architectures.filter(source="kdweb")
    order = architectures.order_by("source", "parameters", "key")[:60]
    return found + [(row.key, _("%(n)s parameters") % {"n": count(row.parameters)}) for row in order]
