"""Teachers: trained here or brought in as a checkpoint, each measured by our own evaluation."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import Count, Max, Q, QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from experiments import measurements
from experiments.files import open_stored
from experiments.forms.catalogue import TeacherUploadForm
from experiments.models import Run, RunTeacher, Teacher, Upload

from .access import allowed, current_project, delete, require_admin, require_maintainer
from .uploads import pending


@require_GET
def teacher_list(request: HttpRequest) -> HttpResponse:
    project = current_project(request)
    measured = Q(runs__status=Run.Status.SUCCEEDED)
    teachers = (
        Teacher.objects.filter(project=project)
        .select_related("architecture", "dataset", "made_by")
        .annotate(
            n_runs=Count("runs", distinct=True) + Count("beside", distinct=True),
            best_student=Max("runs__accuracy", filter=measured),
        )
    )
    context = {"teachers": teachers, "uploads": pending(project, Upload.Purpose.TEACHER)}
    return render(request, "teachers/list.html", context)


def own_or_404(request: HttpRequest, pk: int) -> Teacher:
    related = ("project", "architecture", "dataset", "made_by", "owner")
    return get_object_or_404(Teacher.objects.for_user(request.user).select_related(*related), pk=pk)


def runs_with(teacher: Teacher) -> QuerySet[Run]:
    """Those it teaches in, as the first or beside another."""
    beside = RunTeacher.objects.filter(teacher=teacher).values("run")
    return Run.objects.shown().filter(Q(teacher=teacher) | Q(pk__in=beside))


@require_GET
def teacher_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """The whole page; for htmx, while it is trained, only the part that changes."""
    teacher = own_or_404(request, pk)
    polled = bool(request.headers.get("HX-Request"))
    if polled and teacher.status != Teacher.Status.PREPARING:
        return HttpResponse(headers={"HX-Refresh": "true"})  # the head of the page changes as well
    context = {
        "teacher": teacher,
        "runs": runs_with(teacher).select_related("teacher", "architecture", "control", "control__teacher")[
            :20
        ],
        "per_class": list(
            zip(teacher.dataset.classes, measurements.per_class(teacher.metrics), strict=False)
        ),
        **allowed(request, teacher.project),
    }
    return render(request, "teachers/_body.html" if polled else "teachers/detail.html", context)


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
    teacher = own_or_404(request, pk)
    try:
        file = open_stored(teacher.weights_path)
    except FileNotFoundError:
        raise Http404(_("There are no weights on the disk.")) from None
    headers = {"X-Content-Type-Options": "nosniff"}
    name = f"teacher-{teacher.pk}-{teacher.architecture_id.replace('/', '-')}.safetensors"
    return FileResponse(
        file, as_attachment=True, filename=name, content_type="application/octet-stream", headers=headers
    )


@require_POST
def teacher_delete(request: HttpRequest, pk: int) -> HttpResponse:
    teacher = own_or_404(request, pk)
    require_maintainer(request, teacher.project)
    if teacher.status == Teacher.Status.PREPARING:
        text = _("“%(name)s” is still being trained; stop its run first.")
        messages.error(request, text % {"name": teacher})
        return redirect("teacher_detail", pk=pk)
    return delete(request, teacher)
