"""Files on their way in: announced with their form, sent in pieces, continued where they broke off."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import BinaryIO

from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from experiments import queue
from experiments.forms.catalogue import (
    DatasetForm,
    TeacherUploadForm,
    announced_file_problem,
    request_of,
)
from experiments.models import DatasetKind, Project, Upload

from .access import current_project, require_admin, require_member

PIECE = 8 * 1024 * 1024  # bytes a request may carry; the browser is told
BLOCK = 256 * 1024


def pending(project: Project, purpose: str) -> QuerySet[Upload]:
    """The newest uploads that are on their way, and today's refused ones."""
    old = Q(status=Upload.Status.REFUSED, created__lt=timezone.now() - timedelta(days=1))
    uploads = Upload.objects.filter(project=project, purpose=purpose)
    return uploads.exclude(old).exclude(status=Upload.Status.DONE)[:5]


@require_POST
def upload_start(request: HttpRequest, purpose: str) -> JsonResponse:
    """Check the form and the announced file. 422 with messages by field, or where to send the bytes."""
    project = current_project(request)
    form = upload_form(request, project, purpose)
    name, size = request.POST.get("filename", ""), request.POST.get("size", "")
    length = int(size) if size.isdecimal() and len(size) < 19 else 0
    problem = announced_file_problem(name, length, type(form))
    if not form.is_valid() or problem:
        errors = {field: [str(e) for e in messages] for field, messages in form.errors.items()}
        return JsonResponse({"errors": errors | ({"file": [problem]} if problem else {})}, status=422)
    upload = Upload.objects.create(
        project=project,
        owner_id=request.user.pk,
        purpose=purpose,
        filename=name[-255:],
        size=length,
        request=request_of(form, purpose),
    )
    url = reverse("upload_status", args=[upload.pk])
    return JsonResponse({"id": str(upload.pk), "url": url, "piece": PIECE, "received": 0}, status=201)


def upload_form(request: HttpRequest, project: Project, purpose: str) -> TeacherUploadForm | DatasetForm:
    """The form of the purpose, for those who may: admins bring teachers, members bring datasets."""
    if purpose == Upload.Purpose.TEACHER:
        require_admin(request)
        return TeacherUploadForm(request.POST, project=project)
    if purpose != Upload.Purpose.DATASET:
        raise Http404(_("Nothing is uploaded as %(purpose)s.") % {"purpose": purpose})
    require_member(request)
    kind = get_object_or_404(DatasetKind, pk=request.POST.get("kind", ""), source="upload")
    return DatasetForm(request.POST, project=project, kind=kind)


def own_upload(request: HttpRequest, pk: uuid.UUID) -> Upload:
    """The upload, for the person who began it. Checked again at every piece."""
    upload = get_object_or_404(Upload.objects.for_user(request.user), pk=pk)
    if upload.owner_id != request.user.pk:
        raise PermissionDenied(_("Only the person who began an upload may continue it."))
    return upload


@contextmanager
def held(upload: Upload) -> Iterator[BinaryIO]:
    """The file of the upload, for one request at a time: a piece that was thought lost and sent again
    must not write behind the back of its successor. `upload` is read anew once the file is held."""
    upload.path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(upload.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            upload.refresh_from_db()
        except Upload.DoesNotExist:
            upload.path.unlink(missing_ok=True)
            raise Http404(_("The upload was cancelled.")) from None
        yield file


@require_http_methods(["PUT"])
def upload_piece(request: HttpRequest, pk: uuid.UUID) -> JsonResponse:
    """Append the body at `?offset=`. 409 with the right offset when the server has more or less than that."""
    upload = own_upload(request, pk)
    with held(upload) as file:
        if upload.status != Upload.Status.RECEIVING or request.GET.get("offset") != str(upload.received):
            return state(upload, 409)
        try:
            whole = write_piece(request, file, upload)
        except OSError as error:
            problem = _("The server cannot store it: %(reason)s.") % {"reason": error.strerror}
            return JsonResponse({"error": problem}, status=507)
        if not whole:
            text = _("A piece has at most %(most)s bytes, within the announced size of %(size)s.")
            words = {"most": f"{PIECE:,}", "size": f"{upload.size:,}"}
            return JsonResponse({"error": text % words}, status=413)
        if upload.received == upload.size:
            upload.status, upload.phase = Upload.Status.CHECKING, "Waiting for a worker"
        upload.save(update_fields=["received", "status", "phase"])
    if upload.status == Upload.Status.CHECKING:
        queue.send_upload(upload)
    return state(upload, 200)


def state(upload: Upload, status: int) -> JsonResponse:
    return JsonResponse({"received": upload.received, "status": upload.status}, status=status)


def write_piece(request: HttpRequest, file: BinaryIO, upload: Upload) -> bool:
    """Write the body behind what counts. False when it is longer than allowed; then none of it counts."""
    allowed = min(PIECE, upload.size - upload.received)
    file.seek(upload.received)
    written = 0
    while block := request.read(BLOCK):
        written += len(block)
        if written > allowed:
            return False
        file.write(block)
    file.truncate()
    file.flush()
    upload.received += written
    return True


@require_GET
def upload_status(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The state as a fragment that asks again while a worker is at it; as JSON for scripts."""
    upload = get_object_or_404(Upload.objects.for_user(request.user), pk=pk)
    polled = bool(request.headers.get("HX-Request"))
    if request.headers.get("Accept", "").startswith("application/json"):
        return JsonResponse({"received": upload.received, "status": upload.status, "error": upload.error})
    if polled and upload.teacher_id:
        return HttpResponse(headers={"HX-Redirect": reverse("teacher_detail", args=[upload.teacher_id])})
    if polled and upload.dataset_id:
        return HttpResponse(headers={"HX-Redirect": reverse("dataset_detail", args=[upload.dataset_id])})
    return render(request, "uploads/_status.html" if polled else "uploads/detail.html", {"upload": upload})


@require_POST
def upload_cancel(request: HttpRequest, pk: uuid.UUID) -> JsonResponse:
    """Give up an upload that is not complete yet; its bytes are removed."""
    upload = own_upload(request, pk)
    with held(upload):
        cancelled = upload.status == Upload.Status.RECEIVING
        if cancelled:
            upload.delete()
    return JsonResponse({"cancelled": cancelled})
