"""Health: JSON for machines without a login, a page in words for people."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from experiments import health


@login_not_required
@never_cache
@require_safe
def health_json(request: HttpRequest) -> JsonResponse:
    """200, or 503 when a part is broken. A warning is no failure."""
    checks = health.ask()
    broken = [check.name for check in checks if check.state == health.BROKEN]
    body = {
        "status": "broken" if broken else "ok",
        "broken": broken,
        "checks": {check.name: {"state": check.state, "text": check.text, **check.facts} for check in checks},
    }
    return JsonResponse(body, status=503 if broken else 200)


@require_safe
def health_page(request: HttpRequest) -> HttpResponse:
    """The same for people, with what to do; for htmx the part that changes."""
    checks = health.ask()
    context = {"checks": checks, "bad": [check for check in checks if check.state != health.FINE]}
    template = "health/_body.html" if request.htmx else "health/page.html"  # type: ignore[attr-defined]
    return render(request, template, context)
