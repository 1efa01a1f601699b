"""The admin site: people, projects, and the door for checkpoints. Run history is read-only here."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from experiments import queue
from experiments.forms.catalogue import TeacherUploadForm, announced_file_problem
from experiments.models import (
    Architecture,
    Dataset,
    DatasetKind,
    Experiment,
    Membership,
    Method,
    Project,
    Run,
    RunEvent,
    Student,
    Teacher,
    Upload,
    Worker,
)

admin.site.site_header = _("kdweb administration")
admin.site.site_title = "kdweb"
admin.site.index_title = _("Administration")


class ReadOnly(admin.ModelAdmin[Any]):
    """What workers write: to be looked at, not edited behind their back."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MembershipInline(admin.TabularInline[Membership, Project]):
    model = Membership
    extra = 1
    autocomplete_fields = ["user"]


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin[Project]):
    list_display = ["name", "slug", "created"]
    search_fields = ["name"]
    prepopulated_fields = {"slug": ["name"]}
    inlines = [MembershipInline]


class CheckpointForm(forms.ModelForm[Teacher]):
    """A teacher from a file. The teacher exists only once a worker has read and measured the file."""

    checkpoint = forms.FileField(
        help_text=format_lazy(
            _("{hint}; read only by a worker, as weights only."), hint=TeacherUploadForm.HINT
        )
    )

    class Meta:
        model = Teacher
        fields = ["project", "name", "description", "architecture", "dataset"]

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        dataset, file = values.get("dataset"), values.get("checkpoint")
        if dataset is not None and dataset.project != values.get("project"):
            text = _("“%(name)s” belongs to another project. Choose one of this project.")
            self.add_error("dataset", text % {"name": dataset})
        if dataset is not None and dataset.status != Dataset.Status.READY:
            text = _("“%(name)s” is %(status)s. Wait until it is ready.")
            self.add_error(
                "dataset", text % {"name": dataset, "status": dataset.get_status_display().lower()}
            )
        if file is not None:
            problem = announced_file_problem(file.name, file.size, TeacherUploadForm)
            if problem:
                self.add_error("checkpoint", problem)
        return values


@admin.register(Teacher)
class TeacherAdmin(admin.ModelAdmin[Teacher]):
    list_display = ["name", "project", "architecture", "dataset", "source", "status"]
    list_filter = ["project", "source", "status"]
    search_fields = ["name", "architecture__key"]
    autocomplete_fields = ["architecture"]
    readonly_fields = [
        "source",
        "status",
        "error",
        "weights",
        "sha256",
        "metrics",
        "notes",
        "owner",
        "created",
    ]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs["form"] = CheckpointForm
            kwargs["fields"] = [*CheckpointForm.Meta.fields, "checkpoint"]
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return [*CheckpointForm.Meta.fields, "checkpoint"]
        return ["project", "name", "description", "architecture", "dataset", *self.readonly_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What the weights were measured as cannot be changed under them."""
        return () if obj is None else ("project", "architecture", "dataset", *self.readonly_fields)

    def save_model(self, request: HttpRequest, obj: Teacher, form: Any, change: bool) -> None:
        if change:
            return super().save_model(request, obj, form, change)
        request._kdweb_upload = receive(request, form.cleaned_data)  # type: ignore[attr-defined]
        return None

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """The log names the upload: the teacher does not exist yet."""
        return super().log_addition(request, request._kdweb_upload, message)  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        return redirect("upload_status", pk=request._kdweb_upload.pk)  # type: ignore[attr-defined]


def receive(request: HttpRequest, values: dict[str, Any]) -> Upload:
    """Keep the file and ask a worker to read it."""
    file = values["checkpoint"]
    upload = Upload.objects.create(
        project=values["project"],
        owner_id=request.user.pk,
        purpose=Upload.Purpose.TEACHER,
        filename=file.name[-255:],
        size=file.size,
        received=file.size,
        status=Upload.Status.CHECKING,
        phase="Waiting for a worker",
        request={
            "name": values["name"],
            "description": values["description"],
            "architecture": values["architecture"].pk,
            "dataset": values["dataset"].pk,
        },
    )
    upload.path.parent.mkdir(parents=True, exist_ok=True)
    with open(upload.path, "xb") as target:
        upload.path.chmod(0o600)
        for chunk in file.chunks():
            target.write(chunk)
    queue.send_upload(upload)
    return upload


@admin.register(Dataset)
class DatasetAdmin(admin.ModelAdmin[Dataset]):
    list_display = ["name", "project", "kind", "status", "created"]
    list_filter = ["project", "kind", "status"]
    search_fields = ["name"]
    fields = ["name", "description", "project", "kind", "options", "source_folder", "status", "error", "info"]
    readonly_fields = ["project", "kind", "options", "source_folder", "status", "error", "info"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # the page checks the options and asks a worker


@admin.register(Student)
class StudentAdmin(admin.ModelAdmin[Student]):
    list_display = ["name", "project", "architecture", "pretrained"]
    list_filter = ["project"]
    search_fields = ["name", "architecture__key"]
    autocomplete_fields = ["architecture"]


@admin.register(Experiment)
class ExperimentAdmin(admin.ModelAdmin[Experiment]):
    list_display = ["name", "project", "created"]
    list_filter = ["project"]


class RunEventInline(admin.TabularInline[RunEvent, Run]):
    model = RunEvent
    extra = 0
    can_delete = False
    readonly_fields = ["at", "text", "status", "actor"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Run)
class RunAdmin(ReadOnly):
    list_display = ["name", "project", "purpose", "status", "method_keys", "accuracy", "owner", "created"]
    list_filter = ["project", "status", "purpose"]
    search_fields = ["name", "method_keys"]
    list_select_related = ["project", "owner"]
    inlines = [RunEventInline]


@admin.register(Architecture)
class ArchitectureAdmin(ReadOnly):
    list_display = ["key", "family", "source", "parameters"]
    list_filter = ["source"]
    search_fields = ["key", "title"]


@admin.register(Upload)
class UploadAdmin(ReadOnly):
    list_display = ["filename", "project", "purpose", "status", "owner", "created"]
    list_filter = ["purpose", "status"]


@admin.register(Worker)
class WorkerAdmin(ReadOnly):
    list_display = ["name", "queue", "device", "heartbeat"]


admin.site.register([Method, DatasetKind], ReadOnly)
