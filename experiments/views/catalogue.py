"""What the workers published: methods and architectures."""

from __future__ import annotations

from django.db.models import Case, Q, Value, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from experiments import recipes
from experiments.models import Architecture, Method

SUGGESTIONS = 40
SOURCES = ("kdweb", "torchvision", "timm")


@require_GET
def method_list(request: HttpRequest) -> HttpResponse:
    methods = list(Method.objects.all())
    for method in methods:
        method.recipes = recipes.of(method)  # type: ignore[attr-defined]  # for the template
    return render(request, "methods/list.html", {"methods": methods})


@require_GET
def architecture_options(request: HttpRequest) -> HttpResponse:
    """Suggestions for an architecture field: our own first, then torchvision's and timm's."""
    words = request.GET.get("architecture", "").split()
    match = Q()
    for word in words:
        match &= Q(pk__icontains=word) | Q(title__icontains=word)
    place = Case(*(When(source=source, then=Value(n)) for n, source in enumerate(SOURCES)), default=Value(9))
    found = Architecture.objects.filter(match).order_by(place, "family", "parameters", "key")[:SUGGESTIONS]
    return render(request, "catalogue/_architecture_options.html", {"architectures": found})
