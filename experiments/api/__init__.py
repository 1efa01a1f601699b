"""The JSON API under /api/: session login, CSRF token for changes, other projects' rows are 404."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern
from ninja import NinjaAPI
from ninja.errors import ValidationErrorContext
from ninja.security import SessionAuth

from experiments.lifecycle import Refused
from experiments.planning import PlanError, problems_of
from experiments.run_filter import BadQuery

from . import charts, control, exports, log, runs, series, workers


class Api(NinjaAPI):
    def validation_error_from_error_contexts(self, error_contexts: list[ValidationErrorContext[Any]]) -> Any:
        """What pydantic refuses is said as everywhere else: field, value, message, fix."""
        return PlanError([p for one in error_contexts for p in problems_of(one.pydantic_validation_error)])


# No docs page: it would need scripts that the content security policy refuses. The schema is at openapi.json.
api = Api(title="kdweb", version="1", urls_namespace="api", docs_url=None, auth=SessionAuth())
api.add_router("", runs.router)
api.add_router("", control.router)
api.add_router("", workers.router)
api.add_router("", log.router)
api.add_router("", series.router)
api.add_router("", exports.router)
api.add_router("", charts.router)


@api.exception_handler(PlanError)
def refuse(request: HttpRequest, error: PlanError) -> HttpResponse:
    problems = [
        {
            "field": p.field.removeprefix("plan.").removeprefix("body."),
            "value": p.value,
            "message": p.message,
            "fix": p.fix,
        }
        for p in error.problems
    ]
    return api.create_response(request, problems, status=422)


@api.exception_handler(Refused)
def conflict(request: HttpRequest, error: Refused) -> HttpResponse:
    return api.create_response(request, {"detail": str(error)}, status=409)


@api.exception_handler(BadQuery)
@api.exception_handler(ValueError)
def bad_request(request: HttpRequest, error: ValueError) -> HttpResponse:
    return api.create_response(request, {"detail": str(error)}, status=400)


@api.exception_handler(Http404)
def not_found(request: HttpRequest, error: Http404) -> HttpResponse:
    return api.create_response(request, {"detail": "There is no such thing, or it is not yours."}, status=404)


def patterns() -> list[URLPattern]:
    """For `path("api/", include((patterns(), "api")))`. Strangers get 401 in JSON, not the login page."""
    found = [pattern for pattern in api.urls[0] if isinstance(pattern, URLPattern)]
    for pattern in found:
        if pattern.name not in ("openapi-json", "api-root"):  # those are for people who have logged in
            pattern.callback = login_not_required(pattern.callback)
    return found
