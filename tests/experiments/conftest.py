"""What the tests of the application share."""

from __future__ import annotations

from typing import Any

import pytest

from experiments import queue, stream
from kdweb.celery import app


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Any]]]:
    """The messages to the workers, in place of a broker."""
    messages: list[tuple[str, list[Any]]] = []
    monkeypatch.setattr(app, "send_task", lambda name, args, **_: messages.append((name, args)))
    return messages


@pytest.fixture
def nudges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Messages as they would go to the broker, and no Redis."""
    messages: list[tuple[str, object]] = []
    monkeypatch.setattr(queue, "_send", lambda task, key, to: messages.append((task, key)))
    monkeypatch.setattr(queue, "waiting_messages", lambda name: len(messages))
    monkeypatch.setattr(stream, "publish", lambda run_id, frame: None)
    return messages
