"""Datasets: what images there are, what the workers made of them, and bringing new ones in."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from experiments import queue
from experiments.files import open_stored
from experiments.forms.catalogue import DatasetForm
from experiments.models import Dataset, DatasetKind, Upload, Worker

from .access import allowed, current_project, delete, require_member
from .uploads import pending


@require_GET
def dataset_list(request: HttpRequest) -> HttpResponse:
    project = current_project(request)
    datasets = Dataset.objects.filter(project=project).annotate(
        n_runs=Count("runs", distinct=True), n_teachers=Count("teachers", distinct=True)
    )
    context = {"datasets": datasets, "uploads": pending(project, Upload.Purpose.DATASET)}
    return render(request, "datasets/list.html", context)


def own_or_404(request: HttpRequest, pk: int) -> Dataset:
    return get_object_or_404(Dataset.objects.for_user(request.user).select_related("owner", "project"), pk=pk)


@require_GET
def dataset_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """The whole page; for htmx, while the worker prepares, only the part that changes."""
    dataset = own_or_404(request, pk)
    polled = bool(request.headers.get("HX-Request"))
    if polled and dataset.status != Dataset.Status.PREPARING:
        return HttpResponse(headers={"HX-Refresh": "true"})  # the head of the page changes as well
    kind = DatasetKind.objects.filter(pk=dataset.kind).first()
    context: dict[str, Any] = {
        "dataset": dataset,
        "kind": kind or dataset.kind,
        "options": option_rows(dataset, kind),
        "runs": dataset.runs.filter(shelf="").select_related(
            "teacher", "architecture", "control", "control__teacher"
        )[:20],
        "teachers": dataset.teachers.select_related("architecture"),
        "classes": class_rows(dataset),
        "splits": [(name, n) for name, n in dataset.info.get("sizes", {}).items() if n],
        **allowed(request, dataset.project),
    }
    return render(request, "datasets/_body.html" if polled else "datasets/detail.html", context)


def option_rows(dataset: Dataset, kind: DatasetKind | None) -> list[tuple[str, Any]]:
    """(title, value) of each option, named as in the form."""
    rules = kind.schema.get("properties", {}) if kind else {}
    words = {True: _("yes"), False: _("no")}
    return [
        (_(rules.get(name, {}).get("title", name)), words[value] if isinstance(value, bool) else value)
        for name, value in dataset.options.items()
    ]


def class_rows(dataset: Dataset) -> list[dict[str, Any]]:
    """For each class its name, counts a split, share of the largest class, and sample pictures."""
    counts: dict[str, list[int]] = dataset.info.get("class_counts", {})
    train = counts.get("train") or [0] * dataset.num_classes
    largest = max(train, default=0) or 1
    samples = dataset.info.get("samples", {})
    return [
        {
            "name": name,
            "counts": [split[i] for split in counts.values() if split],
            "train": train[i],
            "largest": largest,
            "samples": range(len(samples.get(name, []))),
            "index": i,
        }
        for i, name in enumerate(dataset.classes)
    ]


@require_GET
def dataset_sample(request: HttpRequest, pk: int, label: int, n: int) -> FileResponse:
    """A sample picture, as the worker re-encoded it. Named by numbers: no path comes from outside."""
    dataset = own_or_404(request, pk)
    try:
        file = open_stored(dataset.folder / dataset.info["samples"][dataset.classes[label]][n])
    except (KeyError, IndexError, FileNotFoundError):
        raise Http404(_("No such sample.")) from None
    headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return FileResponse(file, content_type="image/png", headers=headers)


@require_http_methods(["GET", "POST"])
def dataset_new(request: HttpRequest) -> HttpResponse:
    """Choose a kind, then its options. A file goes to `upload_start` before; here is what needs none."""
    project = require_member(request)
    kinds = list(DatasetKind.objects.all())
    chosen = request.POST.get("kind") or request.GET.get("kind") or ""
    kind = next((k for k in kinds if k.pk == chosen), None)
    form = None
    if kind is not None:
        initial = {"name": _(kind.title).split(" (")[0]}
        form = DatasetForm(request.POST or None, project=project, kind=kind, initial=initial)
        if form.is_valid():
            dataset = create_dataset(request, form)
            if dataset is not None:
                return redirect("dataset_detail", pk=dataset.pk)
    context = {"kinds": kinds, "kind": kind, "form": form, "workers": Worker.objects.alive().exists()}
    return render(request, "datasets/new.html", context, status=422 if form and form.errors else 200)


def create_dataset(request: HttpRequest, form: DatasetForm) -> Dataset | None:
    """None, and the form says why: its name was taken a moment ago, or nothing says where the data are."""
    values = form.cleaned_data
    if form.kind.source == "upload" and not values.get("source_folder"):
        form.add_error(None, _("Choose a file: %(expected)s.") % {"expected": form.HINT})
        return None
    try:
        with transaction.atomic():
            dataset = Dataset.objects.create(
                project=form.project,
                name=values["name"],
                description=values["description"],
                kind=form.kind.pk,
                options=values["options"],
                source_folder=values.get("source_folder", ""),
                owner_id=request.user.pk,
            )
    except IntegrityError:
        form.name_is_taken()
        return None
    queue.send_dataset(dataset)
    return dataset


@require_POST
def dataset_retry(request: HttpRequest, pk: int) -> HttpResponse:
    """Prepare a failed dataset again, for example once the folder is there."""
    dataset = own_or_404(request, pk)
    require_member(request, dataset.project)
    retried = Dataset.objects.filter(pk=pk, status=Dataset.Status.FAILED).update(
        status=Dataset.Status.PREPARING, error="", phase=""
    )
    if retried:
        queue.send_dataset(dataset)
    return redirect("dataset_detail", pk=pk)


@require_POST
def dataset_delete(request: HttpRequest, pk: int) -> HttpResponse:
    return delete(request, own_or_404(request, pk))
