"""The form of a new run. It says what was typed as a `Plan`; `planning` judges it."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.http import QueryDict

from experiments import plan_facts
from experiments.models import Architecture, Dataset, Experiment, Method, Project, Run, Student, Teacher
from experiments.plan_checks import Problem, layer_parameters
from experiments.planning import Plan
from experiments.templatetags.kd import count, pct
from worker.distill.spec import Objective, Term, Training

from .schema import build_fields

TRAINING_SCHEMA = Training.model_json_schema()
FIRST_TRAINING = ("epochs", "batch_size", "learning_rate", "seed")  # the rest lies under "more"
PURPOSES = [
    ("distil", "Distil a student"),
    ("control", "Train a student alone"),
    ("teacher", "Train a teacher"),
]
PURPOSE_HELP = {
    "distil": "A small network learns from a teacher.",
    "control": "The same student without a teacher: what distillation is measured against.",
    "teacher": "A large network that students can learn from.",
}
CONTROLS = [
    ("run", "Run the control too"),
    ("none", "No control"),
]


class TermForm(forms.Form):
    """A row of the objective: method, weight, and the parameters the method declares."""

    method = forms.ChoiceField()
    weight = forms.FloatField(min_value=0, max_value=1e6, initial=1.0)

    def __init__(
        self, row: str, methods: dict[str, Method], data: Any = None, term: Term | None = None
    ) -> None:
        self.row, self.term = row, term
        super().__init__(data, prefix=f"t{row}")
        asked = data.get(f"t{row}-method") if data is not None else term.method if term else None
        self.about = methods.get(asked or "") or next(iter(methods.values()), None)
        choices = [(key, method.title) for key, method in methods.items()]
        if term and term.method not in methods:
            choices.insert(0, (term.method, f"{term.method} (not offered)"))
        self.fields["method"].choices = choices  # type: ignore[attr-defined]
        self.fields["weight"].widget.attrs |= {"step": "any", "inputmode": "decimal"}
        schema = self.about.schema if self.about else {}
        self.fields |= build_fields(schema, prefix="p")
        if term:
            given = {f"p-{key}": value for key, value in term.params.items()}
            self.initial = {"method": term.method, "weight": term.weight, **given}
        elif self.about:
            self.initial = {"method": self.about.key}

    @property
    def parameter_fields(self) -> list[Any]:
        return [self[name] for name in self.fields if name.startswith("p-")]

    @property
    def has_layers(self) -> bool:
        return bool(layer_parameters(self.about))

    def as_term(self) -> Term:
        values = getattr(self, "cleaned_data", {})
        params = {
            name.removeprefix("p-"): values[name]
            for name in self.fields
            if name.startswith("p-") and values.get(name) not in (None, "", [])
        }
        return Term(method=values.get("method") or "", weight=values.get("weight") or 0.0, params=params)


class TeacherSelect(forms.Select):
    """Those that cannot teach on the chosen dataset are shown, greyed, with the reason."""

    refused: dict[int, str]

    def create_option(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        option = super().create_option(*args, **kwargs)
        key = getattr(option["value"], "value", option["value"])
        if key in getattr(self, "refused", {}):
            option["attrs"]["disabled"] = True
            option["label"] = f"{option['label']} ({self.refused[key]})"
        return option


class TeacherField(forms.ModelChoiceField):  # type: ignore[type-arg]  # not generic at run time
    def label_from_instance(self, obj: Any) -> str:
        parts = [obj.name, pct(obj.score), f"{count(obj.metrics.get('parameters'))} parameters"]
        if obj.status == Teacher.Status.PREPARING:
            return f"{obj.name} · in the making"
        return " · ".join(parts)


def why_not(teacher: Teacher, dataset: Dataset | None) -> str:
    """Why a teacher cannot teach on a dataset; empty if it can."""
    if teacher.status == Teacher.Status.FAILED:
        return "failed"
    if dataset is None or teacher.dataset_id == dataset.pk or not dataset.classes:
        return ""
    theirs = teacher.dataset
    if theirs.num_classes != dataset.num_classes:
        return f"{theirs.num_classes} classes; {dataset.name} has {dataset.num_classes}"
    if theirs.channels != dataset.channels:
        return f"{theirs.channels} channels; {dataset.name} has {dataset.channels}"
    return ""


class RunForm(forms.Form):
    purpose = forms.ChoiceField(choices=PURPOSES, widget=forms.RadioSelect, initial="distil")
    dataset = forms.ModelChoiceField(Dataset.objects.none(), empty_label="Choose a dataset")
    teacher = TeacherField(
        Teacher.objects.none(), required=False, empty_label="Choose a teacher", widget=TeacherSelect
    )
    network = forms.CharField(
        max_length=200,
        required=False,
        label="Network",
        help_text="A saved student, or any architecture: type to search.",
    )
    name = forms.CharField(max_length=120, required=False)
    experiment = forms.CharField(
        max_length=100,
        required=False,
        help_text="A group of runs. A new name makes a new one.",
    )
    task_weight = forms.FloatField(min_value=0, max_value=1e6, initial=1.0, label="Weight")
    label_smoothing = forms.FloatField(
        min_value=0, max_value=0.99, initial=0.0, required=False, help_text="0 for none."
    )
    seeds = forms.IntegerField(
        min_value=1, max_value=20, initial=1, label="Runs", help_text="Each with the next seed."
    )
    control = forms.ChoiceField(choices=CONTROLS, initial="run", required=False)
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
        if data is not None:
            rows = [row for row in data.getlist("term") if row.isalnum()][:16]
            # A row that was just added holds nothing yet: it shows its defaults.
            self.terms = [
                TermForm(row, self.methods, data if f"t{row}-method" in data else None) for row in rows
            ]
        else:
            self.terms = term_rows(_shown_objective(plan), self.methods)
        for name in ("teacher", "network", "label_smoothing", "control"):
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
        self.fields["teacher"].queryset = Teacher.objects.filter(**mine)  # type: ignore[attr-defined]
        self.experiments = Experiment.objects.filter(**mine)
        self.fields["experiment"].widget.attrs |= {"list": "experiments", "autocomplete": "off"}
        self.fields["parent"].queryset = Run.objects.filter(**mine)  # type: ignore[attr-defined]
        chosen = self["dataset"].value()
        dataset = datasets.filter(pk=chosen).first() if str(chosen or "").isdecimal() else None
        reasons = {teacher.pk: why_not(teacher, dataset) for teacher in self.teachers}
        widget = self.fields["teacher"].widget
        widget.refused = {key: reason for key, reason in reasons.items() if reason}

    def _initial(self, plan: Plan) -> dict[str, Any]:
        student = (
            Student.objects.filter(project=self.project, pk=plan.student).first() if plan.student else None
        )
        values = plan.model_dump(exclude={"training", "objective", "project", "student", "architecture"})
        training = {f"training-{name}": value for name, value in plan.training.model_dump().items()}
        objective = _shown_objective(plan).model_dump(include={"task_weight", "label_smoothing"})
        network = student.name if student else plan.architecture
        rounded = {"task_weight": round(objective["task_weight"], 6)}  # 1 − 0.9 is not 0.1
        return values | training | objective | rounded | {"network": network, "submission": uuid.uuid4()}

    def training_fields(self, *, first: bool) -> list[Any]:
        names = [name for name in self.training_names if (name in FIRST_TRAINING) == first]
        return [self[f"training-{name}"] for name in names]

    @property
    def main_training(self) -> list[Any]:
        return self.training_fields(first=True)

    @property
    def more_training(self) -> list[Any]:
        return self.training_fields(first=False)

    @property
    def more_has_errors(self) -> bool:
        return any(field.errors for field in self.more_training)

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
            teacher=_key(values.get("teacher")) if self.distils else None,
            training=Training(
                **{
                    name: values[f"training-{name}"]
                    for name in self.training_names
                    if values.get(f"training-{name}") is not None
                }
            ),
            objective=self._objective(values),
            control=values.get("control") or "none",
            seeds=values.get("seeds") or 1,
            parent=_key(values.get("parent")),
            submission=values.get("submission"),
        )

    def _objective(self, values: dict[str, Any]) -> Objective:
        smoothing = values.get("label_smoothing") or 0.0
        if not self.distils:
            return Objective(label_smoothing=smoothing)
        weight = values.get("task_weight")
        return Objective(
            task_weight=1.0 if weight is None else weight,
            label_smoothing=smoothing,
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
            case ["training", name]:
                return self, f"training-{name}"
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


def _key(row: Any) -> int | None:
    return None if row is None else int(row.pk)


def _shown_objective(plan: Plan | None) -> Objective:
    """The rows of a run without a teacher are hidden; they hold what distilling would begin with."""
    if plan is None or plan.purpose != "distil":
        smoothing = plan.objective.label_smoothing if plan else 0.0
        return plan_facts.preset("kd").model_copy(update={"label_smoothing": smoothing})
    return plan.objective


def term_rows(objective: Objective, methods: dict[str, Method]) -> list[TermForm]:
    rounded = [term.model_copy(update={"weight": round(term.weight, 6)}) for term in objective.terms]
    return [TermForm(str(number), methods, term=term) for number, term in enumerate(rounded)]


def networks(project: Project, text: str = "") -> list[tuple[str, str]]:
    """(value, label) for the network's suggestions: the project's students first, then architectures."""
    students = Student.objects.filter(project=project, name__icontains=text).select_related("architecture")
    found = [(student.name, f"saved student, {student.architecture_id}") for student in students[:20]]
    architectures = Architecture.objects.all()
    for word in text.split():
        architectures = architectures.filter(key__icontains=word)
    if not text:
        architectures = architectures.filter(source="kdweb")
    order = architectures.order_by("source", "parameters", "key")[:60]
    return found + [(row.key, f"{count(row.parameters)} parameters") for row in order]
