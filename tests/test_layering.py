"""Who may import whom, and what the web process must never load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

START_THE_WEB = """
import sys
import kdweb.asgi
from django.urls import get_resolver

def walk(patterns):
    for pattern in patterns:
        yield from walk(pattern.url_patterns) if hasattr(pattern, "url_patterns") else [pattern.callback]

print(len(list(walk(get_resolver().url_patterns))))
heavy = {"torch", "torchvision", "timm", "sklearn", "safetensors", "worker.tasks", "worker.supervisor"}
print(*sorted(heavy & set(sys.modules)))
"""


def test_the_import_contracts_hold() -> None:
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_web_starts_without_torch(tmp_path: Path) -> None:
    env = os.environ | {"KDWEB_HOME": str(tmp_path), "DJANGO_SETTINGS_MODULE": "kdweb.settings"}
    done = subprocess.run(
        [sys.executable, "-c", START_THE_WEB], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    views, heavy = done.stdout.split("\n")[:2]
    assert int(views) > 20  # the whole URLconf was loaded, the API included
    assert heavy == ""
