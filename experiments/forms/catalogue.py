"""Forms for what a run is made of. An upload's form is filled before the first byte is sent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments.models import Architecture, Dataset, DatasetKind, Project, Student, Teacher, Upload
from experiments.models.catalogue import Readiness

from .schema import build_fields, check_values

ARCHITECTURE_HELP = gettext_lazy(
    "Type to search, e.g. resnet8, torchvision/resnet18 or timm/vit_tiny_patch16_224."
)


class ArchitectureField(forms.CharField):
    """An architecture by key. A list of 1,500 names is searched, not scrolled: hence text, not a select."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("help_text", ARCHITECTURE_HELP)
        super().__init__(max_length=200, **kwargs)
        self.widget.attrs |= {"list": "architectures", "autocomplete": "off", "spellcheck": "false"}

    def clean(self, value: Any) -> Any:
        key = super().clean(value)
        architecture = Architecture.objects.filter(pk=key).first()
        if architecture is None:
            near = ", ".join(nearest_architectures(key))
            hint = _("Is a worker running? It publishes the list.")
            if near:
                hint = _("Did you mean %(names)s?") % {"names": near}
            raise forms.ValidationError(
                [_("No architecture is called “%(key)s”.") % {"key": key} + f" {hint}"]
            )
        return architecture


def nearest_architectures(key: str, n: int = 3) -> list[str]:
    """Keys that resemble what was typed."""
    from difflib import get_close_matches

    return get_close_matches(key, Architecture.objects.values_list("pk", flat=True), n=n, cutoff=0.5)


class InProjectForm(forms.Form):
    """A form that makes something with a name that is unique in its project."""

    makes: ClassVar[type[Dataset] | type[Student] | type[Teacher]]
    name = forms.CharField(max_length=100, label=gettext_lazy("Name"))
    description = forms.CharField(
        required=False, label=gettext_lazy("Description"), widget=forms.Textarea(attrs={"rows": 2})
    )
    field_order: list[str] | None = None

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        self.project = project
        super().__init__(*args, **kwargs)

    def clean_name(self) -> str:
        name = str(self.cleaned_data["name"]).strip()
        if self.makes.objects.filter(project=self.project, name__iexact=name).exists():
            raise forms.ValidationError(taken(name))
        return name

    def name_is_taken(self) -> None:
        """For the one who comes second when two send the same name at once."""
        self.add_error("name", taken(self.cleaned_data["name"]))


def taken(name: str) -> str:
    return _("“%(name)s” is taken in this project. Choose another name.") % {"name": name}


class StudentForm(InProjectForm):
    makes = Student

    architecture = ArchitectureField(label=gettext_lazy("Architecture"))
    pretrained = forms.BooleanField(
        required=False,
        label=gettext_lazy("Begin with pretrained weights"),
        help_text=gettext_lazy(
            "The library's own weights (torchvision, timm); needs a network on the worker."
        ),
    )

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        architecture = values.get("architecture")
        if values.get("pretrained") and architecture is not None and architecture.source == "kdweb":
            text = _("%(network)s has no pretrained weights. Leave this off.")
            self.add_error("pretrained", text % {"network": architecture.key})
        return values


class DatasetForm(InProjectForm):
    """A dataset of one kind: its options come from the kind's published schema."""

    makes = Dataset

    source_folder = forms.CharField(
        required=False,
        label=gettext_lazy("Folder on the server"),
        help_text=gettext_lazy("Where the files lie already. Empty: the worker downloads them."),
    )
    SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
    HINT = gettext_lazy("one folder a class, as .zip, .tar or .tar.gz")

    def __init__(self, *args: Any, kind: DatasetKind, **kwargs: Any) -> None:
        self.kind = kind
        super().__init__(*args, **kwargs)
        if kind.source == "bundled" or not settings.KDWEB_DATASET_ROOTS:
            del self.fields["source_folder"]
        elif kind.source == "upload":
            self.fields["source_folder"].help_text = _(
                "Where the pictures lie already, instead of an upload."
            )
        self.option_fields = build_fields(kind.schema, prefix="option")
        self.fields.update(self.option_fields)

    def clean_source_folder(self) -> str:
        folder = str(self.cleaned_data["source_folder"]).strip()
        if folder and not allowed_folder(folder):
            roots = ", ".join(map(str, settings.KDWEB_DATASET_ROOTS))
            raise forms.ValidationError(
                _(
                    "“%(folder)s” is not below a folder the server may read (%(roots)s). "
                    "An administrator sets KDWEB_DATASET_ROOTS."
                )
                % {"folder": folder, "roots": roots}
            )
        return folder

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        options, errors = check_values(self.kind.schema, values, prefix="option")
        for field, message in errors.items():
            self.add_error(field, message)
        values["options"] = options
        return values


def allowed_folder(folder: str) -> bool:
    """Whether a worker may read it: below one of the configured roots, links and dots resolved."""
    path = Path(folder).resolve()
    return any(path.is_relative_to(root.resolve()) for root in settings.KDWEB_DATASET_ROOTS)


class TeacherUploadForm(InProjectForm):
    makes = Teacher

    architecture = ArchitectureField(
        label=gettext_lazy("Architecture"),
        help_text=format_lazy("{} {}", gettext_lazy("What the checkpoint is."), ARCHITECTURE_HELP),
    )
    dataset = forms.ModelChoiceField(
        Dataset.objects.none(),
        label=gettext_lazy("Dataset"),
        empty_label=gettext_lazy("Choose a dataset"),
        help_text=gettext_lazy("What it classifies. It is evaluated on this dataset at once."),
    )

    SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
    HINT = gettext_lazy("a state dict as .safetensors, .pt or .pth")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ready = Dataset.objects.filter(project=self.project, status=Readiness.READY)
        self.fields["dataset"].queryset = ready  # type: ignore[attr-defined]


def announced_file_problem(name: str, size: int, form: type[TeacherUploadForm] | type[DatasetForm]) -> str:
    """What is wrong with a file judged by name and size, or nothing. Its content is judged by a worker."""
    limit, free = settings.KDWEB_UPLOAD_LIMIT, shutil.disk_usage(settings.KDWEB_DATA).free
    if not name or "\0" in name:
        return _("Choose a file: %(expected)s.") % {"expected": form.HINT}
    if not name.lower().endswith(form.SUFFIXES):
        text = _("“%(name)s” has another ending than expected. Send %(expected)s.")
        return text % {"name": name, "expected": form.HINT}
    if size <= 0:
        return _("“%(name)s” is empty. Choose another file.") % {"name": name}
    if size > limit:
        text = _(
            "“%(name)s” has %(size)s bytes; at most %(limit)s are allowed. "
            "An administrator sets KDWEB_UPLOAD_LIMIT."
        )
        return text % {"name": name, "size": f"{size:,}", "limit": f"{limit:,}"}
    if size > free:
        text = _(
            "“%(name)s” has %(size)s bytes; the server's disk has %(free)s left. "
            "Ask an administrator for room."
        )
        return text % {"name": name, "size": f"{size:,}", "free": f"{free:,}"}
    return ""


def request_of(form: InProjectForm, purpose: str) -> dict[str, Any]:
    """What an Upload remembers of its form: plain values, so that a worker can read them later."""
    values = form.cleaned_data
    request = {"name": values["name"], "description": values["description"]}
    if purpose == Upload.Purpose.TEACHER:
        return request | {"architecture": values["architecture"].pk, "dataset": values["dataset"].pk}
    assert isinstance(form, DatasetForm)
    return request | {"kind": form.kind.pk, "options": values["options"]}
