"""What the workers say they can do, as rows: forms, checks and help pages are rendered from them."""

from __future__ import annotations

from typing import Any

from django.db import models, transaction
from django.db.models.functions import Now

from kdweb.version import version

from .models import Architecture, DatasetKind, Method, Pulse, Worker

CATALOGUE = "catalogue"


def publish(catalogue: dict[str, Any]) -> None:
    """The engine's catalogue into the tables. What it no longer offers stays, for the runs that used it."""
    with transaction.atomic():
        _methods(catalogue["methods"], catalogue.get("broken_methods", {}))
        _store(DatasetKind, catalogue["dataset_kinds"])
        _store(Architecture, catalogue["architectures"])
        published = {"at": Now(), "by": catalogue["source"]}
        Pulse.objects.update_or_create(name=CATALOGUE, defaults=published)


def known() -> str:
    """The `source` of the catalogue that was published last: who offers the same need not say it again."""
    return Pulse.objects.filter(name=CATALOGUE).values_list("by", flat=True).first() or ""


def _store(model: type[models.Model], said: list[dict[str, Any]]) -> None:
    """One statement for all: there are more than a thousand architectures."""
    if not said:
        return
    kept = [field.name for field in model._meta.concrete_fields if field.name in said[0]]
    model._default_manager.bulk_create(
        [model(**{name: row[name] for name in kept}) for row in said],
        batch_size=200,
        update_conflicts=True,
        unique_fields=["key"],
        update_fields=[name for name in kept if name != "key"],
    )


def _methods(offered: list[dict[str, Any]], broken: dict[str, str]) -> None:
    working = {"available": True, "problem": ""}
    # A worker of an earlier version says nothing of recipes.
    rows = [{"presets": []} | method | {"tasks": method["task_forms"]} | working for method in offered]
    _store(Method, rows)
    gone = Method.objects.exclude(key__in=[method["key"] for method in offered])
    gone.update(available=False, problem="No worker offers it any more.")
    for key, problem in broken.items():
        values = {"available": False, "problem": problem}
        Method.objects.update_or_create(key=key, defaults=values, create_defaults=values | {"title": key})


def announce(name: str, queue: str, host: str, catalogue: dict[str, Any]) -> None:
    """A worker that has started: its device and versions."""
    devices = catalogue["devices"]
    best = devices[0] if devices else {"name": "cpu", "description": "CPU"}
    Worker.objects.update_or_create(
        name=name,
        defaults={
            "host": host,
            "queue": queue,
            "device": best["description"],
            "device_kind": best["name"].partition(":")[0],
            "versions": {"kdweb": version()} | catalogue["versions"],
            "started": Now(),
            "heartbeat": Now(),
            "trouble": "",
            "run": None,
        },
    )


def heartbeat(name: str, **values: Any) -> bool:
    """It lives. Before it has announced itself there is nothing to touch."""
    return bool(Worker.objects.filter(name=name).update(heartbeat=Now(), **values))
