"""Students: the small networks a team would like to ship."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import Count, Max, ProtectedError, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from experiments.forms.catalogue import StudentForm
from experiments.models import Run, Student

from .access import current_project, require_maintainer, require_member


@require_GET
def student_list(request: HttpRequest) -> HttpResponse:
    project = current_project(request)
    distilled = Q(runs__purpose=Run.Purpose.DISTIL)
    students = (
        Student.objects.filter(project=project)
        .select_related("architecture")
        .annotate(
            n_runs=Count("runs"),
            best=Max("runs__accuracy", filter=distilled),
            best_control=Max("runs__accuracy", filter=Q(runs__purpose=Run.Purpose.CONTROL)),
        )
    )
    return render(request, "students/list.html", {"students": students})


@require_GET
def student_detail(request: HttpRequest, pk: int) -> HttpResponse:
    students = Student.objects.for_user(request.user).select_related("architecture", "owner")
    student = get_object_or_404(students, pk=pk)
    runs = student.runs.select_related("teacher", "architecture", "control", "control__teacher", "dataset")
    best = runs.filter(purpose=Run.Purpose.DISTIL, accuracy__isnull=False).order_by("-accuracy").first()
    return render(request, "students/detail.html", {"student": student, "runs": runs[:50], "best": best})


@require_http_methods(["GET", "POST"])
def student_new(request: HttpRequest) -> HttpResponse:
    project = require_member(request)
    form = StudentForm(request.POST or None, project=project)
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data
        student = Student.objects.create(
            project=project,
            name=values["name"],
            description=values["description"],
            architecture=values["architecture"],
            pretrained=values["pretrained"],
            owner_id=request.user.pk,
        )
        return redirect("student_detail", pk=student.pk)
    return render(request, "students/new.html", {"form": form}, status=422 if form.errors else 200)


@require_POST
def student_delete(request: HttpRequest, pk: int) -> HttpResponse:
    project = require_maintainer(request)
    student = get_object_or_404(Student, project=project, pk=pk)
    try:
        student.delete()
    except ProtectedError:
        messages.error(request, f"“{student}” is used by runs; delete those first.")
        return redirect("student_detail", pk=pk)
    messages.success(request, f"Student “{student}” is deleted.")
    return redirect("student_list")
