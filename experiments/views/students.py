"""Students: the small networks a team would like to ship."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.db.models import Count, Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from experiments.forms.catalogue import StudentForm
from experiments.models import Run, Student

from .access import allowed, current_project, delete, require_member


@require_GET
def student_list(request: HttpRequest) -> HttpResponse:
    project = current_project(request)
    measured = Q(runs__status=Run.Status.SUCCEEDED)
    students = (
        Student.objects.filter(project=project)
        .select_related("architecture")
        .annotate(
            n_runs=Count("runs"),
            best=Max("runs__accuracy", filter=measured & Q(runs__purpose=Run.Purpose.DISTIL)),
            best_control=Max("runs__accuracy", filter=measured & Q(runs__purpose=Run.Purpose.CONTROL)),
        )
    )
    return render(request, "students/list.html", {"students": students})


def own_or_404(request: HttpRequest, pk: int) -> Student:
    related = ("project", "architecture", "owner")
    return get_object_or_404(Student.objects.for_user(request.user).select_related(*related), pk=pk)


@require_GET
def student_detail(request: HttpRequest, pk: int) -> HttpResponse:
    student = own_or_404(request, pk)
    runs = student.runs.filter(shelf="").select_related(
        "teacher", "architecture", "control", "control__teacher"
    )
    distilled = runs.filter(purpose=Run.Purpose.DISTIL, status=Run.Status.SUCCEEDED, accuracy__isnull=False)
    context = {
        "student": student,
        "runs": runs[:50],
        "best": distilled.order_by("-accuracy").first(),
        **allowed(request, student.project),
    }
    return render(request, "students/detail.html", context)


@require_http_methods(["GET", "POST"])
def student_new(request: HttpRequest) -> HttpResponse:
    project = require_member(request)
    form = StudentForm(request.POST or None, project=project)
    if request.method == "POST" and form.is_valid():
        student = create_student(request, form)
        if student is not None:
            return redirect("student_detail", pk=student.pk)
    return render(request, "students/new.html", {"form": form}, status=422 if form.errors else 200)


def create_student(request: HttpRequest, form: StudentForm) -> Student | None:
    """None where somebody took the name a moment ago; the form says so."""
    try:
        with transaction.atomic():
            return Student.objects.create(project=form.project, owner_id=request.user.pk, **form.cleaned_data)
    except IntegrityError:
        form.name_is_taken()
        return None


@require_POST
def student_delete(request: HttpRequest, pk: int) -> HttpResponse:
    return delete(request, own_or_404(request, pk))
