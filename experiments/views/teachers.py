"""Teachers: trained here or brought in as a checkpoint, each measured by our own evaluation."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import Count, Max, ProtectedError
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from experiments.forms.catalogue import TeacherUploadForm
from experiments.models import Teacher, Upload

from .access import current_project, require_admin, require_maintainer


@require_GET
def teacher_list(request: HttpRequest) -> HttpResponse:
    project = current_project(request)
    teachers = (
        Teacher.objects.filter(project=project)
        .select_related("architecture", "dataset", "made_by")
        .annotate(n_runs=Count("runs"), best_student=Max("runs__accuracy"))
    )
    uploads = Upload.objects.filter(project=project, purpose="teacher").exclude(status="done")[:5]
    return render(request, "teachers/list.html", {"teachers": teachers, "uploads": uploads})


@require_GET
def teacher_detail(request: HttpRequest, pk: int) -> HttpResponse:
    teachers = Teacher.objects.for_user(request.user).select_related(
        "architecture", "dataset", "made_by", "owner"
    )
    teacher = get_object_or_404(teachers, pk=pk)
    context = {
        "teacher": teacher,
        "runs": teacher.runs.select_related("teacher", "architecture", "control", "control__teacher")[:20],
        "per_class": list(zip(teacher.dataset.classes, teacher.metrics.get("per_class") or [], strict=False)),
    }
    template = "teachers/_body.html" if request.headers.get("HX-Request") else "teachers/detail.html"
    return render(request, template, context)


@require_GET
def teacher_new(request: HttpRequest) -> HttpResponse:
    """Training a teacher is a run like any other."""
    return redirect(reverse("run_new") + "?purpose=teacher")


@require_GET
def teacher_upload(request: HttpRequest) -> HttpResponse:
    """The form; its bytes go to `upload_start` and `upload_piece`."""
    project = require_admin(request)
    return render(request, "teachers/upload.html", {"form": TeacherUploadForm(project=project)})


@require_GET
def teacher_weights(request: HttpRequest, pk: int) -> FileResponse:
    """The converted safetensors file; never the file that came in."""
    teacher = get_object_or_404(Teacher.objects.for_user(request.user), pk=pk, status=Teacher.Status.READY)
    try:
        file = open(teacher.weights_path, "rb")  # noqa: SIM115 - the response closes it
    except FileNotFoundError:
        raise Http404("The weights are no longer on the disk.") from None
    headers = {"X-Content-Type-Options": "nosniff"}
    name = f"teacher-{teacher.pk}-{teacher.architecture_id.replace('/', '-')}.safetensors"
    return FileResponse(
        file, as_attachment=True, filename=name, content_type="application/octet-stream", headers=headers
    )


@require_POST
def teacher_delete(request: HttpRequest, pk: int) -> HttpResponse:
    project = require_maintainer(request)
    teacher = get_object_or_404(Teacher, project=project, pk=pk)
    if teacher.status == Teacher.Status.PREPARING:
        messages.error(request, f"“{teacher}” is still being trained; stop its run first.")
        return redirect("teacher_detail", pk=pk)
    try:
        teacher.delete()
    except ProtectedError:
        messages.error(request, f"“{teacher}” is used by runs; delete those first.")
        return redirect("teacher_detail", pk=pk)
    messages.success(request, f"Teacher “{teacher}” is deleted.")
    return redirect("teacher_list")
