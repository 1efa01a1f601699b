"""What the command palette asks for with every few letters."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET

from experiments import palette


@require_GET
def palette_search(request: HttpRequest) -> JsonResponse:
    """{groups: [{label, items: [{label, hint, url, icon}]}]} of what the person may see."""
    projects = getattr(request, "projects", [])
    groups = palette.search(request.user, projects, request.GET.get("q", ""))
    return JsonResponse({"groups": groups}, headers={"Cache-Control": "no-store"})
