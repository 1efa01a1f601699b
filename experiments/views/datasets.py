"""Datasets: what images there are, what the workers made of them, and bringing new ones in."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import Count, ProtectedError
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from experiments import queue
from experiments.forms.catalogue import DatasetForm, DatasetUploadForm
from experiments.models import Dataset, DatasetKind, Upload, Worker

from .access import current_project, require_maintainer, require_member


@require_GET
def dataset_list(request: HttpRequest) -> HttpResponse:
    project = current_project(request)
    datasets = Dataset.objects.filter(project=project).annotate(
        n_runs=Count("runs", distinct=True), n_teachers=Count("teachers", distinct=True)
    )
    uploads = Upload.objects.filter(project=project, purpose="dataset").exclude(status="done")[:5]
    return render(request, "datasets/list.html", {"datasets": datasets, "uploads": uploads})


@require_GET
def dataset_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """The whole page; for htmx, while the worker prepares, only the part that changes."""
    dataset = get_object_or_404(Dataset.objects.for_user(request.user).select_related("owner"), pk=pk)
    context: dict[str, Any] = {
        "dataset": dataset,
        "runs": dataset.runs.select_related("teacher", "architecture", "control", "control__teacher")[:20],
        "teachers": dataset.teachers.select_related("architecture"),
        "classes": class_rows(dataset),
        "splits": [(name, n) for name, n in dataset.info.get("sizes", {}).items() if n],
    }
    template = "datasets/_body.html" if request.headers.get("HX-Request") else "datasets/detail.html"
    return render(request, template, context)


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
    dataset = get_object_or_404(Dataset.objects.for_user(request.user), pk=pk)
    try:
        relative = dataset.info["samples"][dataset.classes[label]][n]
        file = open(dataset.folder / relative, "rb")  # noqa: SIM115 - the response closes it
    except (KeyError, IndexError, FileNotFoundError):
        raise Http404("No such sample.") from None
    headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return FileResponse(file, content_type="image/png", headers=headers)


@require_http_methods(["GET", "POST"])
def dataset_new(request: HttpRequest) -> HttpResponse:
    """Choose a kind, then its options. Kinds that are uploaded send their form to `upload_start`."""
    project = require_member(request)
    kinds = list(DatasetKind.objects.all())
    chosen = request.POST.get("kind") or request.GET.get("kind") or ""
    kind = next((k for k in kinds if k.pk == chosen), None)
    form = None
    if kind is not None:
        form_class = DatasetUploadForm if kind.source == "upload" else DatasetForm
        initial = {"name": kind.title.split(" (")[0]}
        form = form_class(request.POST or None, project=project, kind=kind, initial=initial)
        if request.method == "POST" and kind.source != "upload" and form.is_valid():
            return redirect("dataset_detail", pk=create_dataset(request, form).pk)
    context = {"kinds": kinds, "kind": kind, "form": form, "workers": Worker.objects.alive().exists()}
    return render(request, "datasets/new.html", context, status=200 if not form or not form.errors else 422)


def create_dataset(request: HttpRequest, form: DatasetForm) -> Dataset:
    values = form.cleaned_data
    dataset = Dataset.objects.create(
        project=form.project,
        name=values["name"],
        description=values["description"],
        kind=form.kind.pk,
        options=values["options"],
        source_folder=values.get("source_folder", ""),
        owner_id=request.user.pk,
    )
    queue.send_dataset(dataset)
    return dataset


@require_POST
def dataset_retry(request: HttpRequest, pk: int) -> HttpResponse:
    """Prepare a failed dataset again, for example once the folder is there."""
    project = require_member(request)
    dataset = get_object_or_404(Dataset, project=project, pk=pk)
    retried = Dataset.objects.filter(pk=pk, status=Dataset.Status.FAILED).update(
        status=Dataset.Status.PREPARING, error="", phase=""
    )
    if retried:
        queue.send_dataset(dataset)
    return redirect("dataset_detail", pk=pk)


@require_POST
def dataset_delete(request: HttpRequest, pk: int) -> HttpResponse:
    project = require_maintainer(request)
    dataset = get_object_or_404(Dataset, project=project, pk=pk)
    try:
        dataset.delete()
    except ProtectedError:
        messages.error(request, f"“{dataset}” is used by runs or teachers; delete those first.")
        return redirect("dataset_detail", pk=pk)
    messages.success(request, f"Dataset “{dataset}” is deleted.")
    return redirect("dataset_list")
