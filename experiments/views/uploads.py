"""Files on their way in: announced with their form, sent in pieces, continued where they broke off."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db.models import F
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from experiments import queue
from experiments.forms.catalogue import DatasetUploadForm, InProjectForm, TeacherUploadForm, request_of
from experiments.models import DatasetKind, Project, Upload

from .access import current_project, require_admin, require_member

PIECE = 8 * 1024 * 1024  # bytes a request may carry; the browser is told
BLOCK = 256 * 1024


@require_POST
def upload_start(request: HttpRequest, purpose: str) -> JsonResponse:
    """Check the form and the announced file. 422 with messages by field, or where to send the bytes."""
    project = current_project(request)
    form = upload_form(request, project, purpose)
    problems = file_problems(request, form)
    if not form.is_valid() or problems:
        errors = {field: [str(e) for e in messages] for field, messages in form.errors.items()}
        return JsonResponse({"errors": errors | problems}, status=422)
    upload = Upload.objects.create(
        project=project,
        owner_id=request.user.pk,
        purpose=purpose,
        filename=request.POST["filename"][:255],
        size=int(request.POST["size"]),
        request=request_of(form, purpose),
    )
    return JsonResponse({"id": str(upload.pk), "piece": PIECE, "received": 0}, status=201)


def upload_form(request: HttpRequest, project: Project, purpose: str) -> InProjectForm:
    """The form of the purpose, for those who may: admins bring teachers, members bring datasets."""
    if purpose == Upload.Purpose.TEACHER:
        require_admin(request)
        return TeacherUploadForm(request.POST, project=project)
    require_member(request)
    kind = get_object_or_404(DatasetKind, pk=request.POST.get("kind", ""), source="upload")
    return DatasetUploadForm(request.POST, project=project, kind=kind)


def file_problems(request: HttpRequest, form: Any) -> dict[str, list[str]]:
    """What is wrong with the announced file, before a byte of it is sent. Its content is judged later."""
    name, size = request.POST.get("filename", ""), request.POST.get("size", "")
    limit = settings.KDWEB_UPLOAD_LIMIT
    if not name:
        return {"file": [f"Choose a file: {form.HINT}."]}
    if not name.lower().endswith(form.SUFFIXES):
        return {"file": [f"“{name}” has another ending than expected. Send {form.HINT}."]}
    if not size.isdigit() or int(size) == 0:
        return {"file": [f"“{name}” is empty. Choose another file."]}
    if int(size) > limit:
        return {
            "file": [
                f"“{name}” has {int(size):,} bytes; at most {limit:,} are allowed. "
                "An administrator sets KDWEB_UPLOAD_LIMIT."
            ]
        }
    return {}


def own_upload(request: HttpRequest, pk: uuid.UUID) -> Upload:
    """The upload, for the person who began it. Checked again at every piece."""
    upload = get_object_or_404(Upload.objects.for_user(request.user), pk=pk)
    if upload.owner_id != request.user.pk:
        raise PermissionDenied("Only the person who began an upload may continue it.")
    return upload


@require_http_methods(["PUT"])
def upload_piece(request: HttpRequest, pk: uuid.UUID) -> JsonResponse:
    """Append the body at `?offset=`. 409 with the right offset when the server has more or less than that."""
    upload = own_upload(request, pk)
    offset = request.GET.get("offset", "")
    if upload.status != Upload.Status.RECEIVING or offset != str(upload.received):
        return JsonResponse({"received": upload.received, "status": upload.status}, status=409)
    length = write_piece(request, upload)
    if length is None:
        return JsonResponse(
            {"error": f"A piece has at most {PIECE:,} bytes, within the announced size."}, status=413
        )
    moved = Upload.objects.filter(pk=pk, received=int(offset), status=Upload.Status.RECEIVING).update(
        received=F("received") + length
    )
    upload.refresh_from_db()
    if moved and upload.received == upload.size:
        Upload.objects.filter(pk=pk).update(status=Upload.Status.CHECKING, phase="Waiting for a worker")
        queue.send_upload(upload)
    return JsonResponse({"received": upload.received, "status": upload.status}, status=200 if moved else 409)


def write_piece(request: HttpRequest, upload: Upload) -> int | None:
    """Write the body behind what is there. None when it is longer than allowed; then nothing counts."""
    allowed = min(PIECE, upload.size - upload.received)
    upload.path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with open(upload.path, "r+b" if upload.path.exists() else "x+b") as file:
        upload.path.chmod(0o600)
        file.seek(upload.received)
        while block := request.read(BLOCK):
            written += len(block)
            if written > allowed:
                return None
            file.write(block)
        file.truncate()
    return written


@require_GET
def upload_status(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The state as a fragment that asks again while a worker is at it; as JSON for scripts."""
    upload = get_object_or_404(Upload.objects.for_user(request.user), pk=pk)
    if request.headers.get("Accept", "").startswith("application/json"):
        return JsonResponse({"received": upload.received, "status": upload.status, "error": upload.error})
    template = "uploads/_status.html" if request.headers.get("HX-Request") else "uploads/detail.html"
    return render(request, template, {"upload": upload})


@require_POST
def upload_cancel(request: HttpRequest, pk: uuid.UUID) -> JsonResponse:
    """Give up an upload that is not complete yet; its bytes are removed."""
    upload = own_upload(request, pk)
    gone, _ = Upload.objects.filter(pk=pk, status=Upload.Status.RECEIVING).delete()
    if gone:
        upload.path.unlink(missing_ok=True)
    return JsonResponse({"cancelled": bool(gone)})
