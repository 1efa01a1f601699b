"""The answer where the database does not answer: what is the matter, in words, and when to come again.

A request touches the database before any view is reached (whose session is it?) and after (the session is
saved), so this stands where Django turns whatever was raised into an answer. A view's transaction has been
rolled back by then: nothing is half saved.
"""

from __future__ import annotations

import sys

from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.views.defaults import server_error as usual

from experiments.database import AWAY

RETRY_AFTER = 10  # seconds
READ_ONLY = ("read-only", "readonly")
FULL = ("disk is full", "no space left", "could not extend", "disk full")
LOCKED = ("database is locked", "database table is locked")
UNPREPARED = ("no such table", "no such column")


def reason(error: BaseException) -> str:
    """What is the matter with the database, in a sentence; nothing where the error is another one."""
    words = str(error).lower()
    if not isinstance(error, AWAY):
        return ""
    if any(word in words for word in READ_ONLY):
        return _("The database may only be read at the moment, so nothing can be changed. Nothing was.")
    if any(word in words for word in FULL):
        return _("The disk of the database is full, so nothing can be changed. Nothing was. Make room on it.")
    if any(word in words for word in LOCKED):
        return _("The database was busy for too long. Nothing was changed; try again.")
    if any(word in words for word in UNPREPARED):
        return _("The database is older than this code. An administrator should run `manage.py prepare`.")
    if isinstance(error, OperationalError) or "connection" in words:
        return _(
            "The database does not answer. Nothing was changed. Runs go on, and are shown when it is back."
        )
    return ""


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500: 503 in words where it is the database, else the usual page."""
    error = sys.exc_info()[1]
    words = reason(error) if error is not None else ""
    if not words:
        return usual(request)
    response: HttpResponse
    if request.path.startswith("/api/") or request.path == "/health.json":
        response = JsonResponse({"detail": words}, status=503)
    elif request.headers.get("HX-Request"):  # becomes a toast
        response = HttpResponse(words, status=503, content_type="text/plain; charset=utf-8")
    else:  # without the request: whatever a page asks of it would be asked of the database
        response = HttpResponse(render_to_string("503.html", {"why": words}), status=503)
    response["Retry-After"] = str(RETRY_AFTER)
    response["Cache-Control"] = "no-store"
    return response
