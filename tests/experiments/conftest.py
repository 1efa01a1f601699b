"""What the tests of the application share."""

from __future__ import annotations

from typing import Any

import pytest

from kdweb.celery import app


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Any]]]:
    """The messages to the workers, in place of a broker."""
    messages: list[tuple[str, list[Any]]] = []
    monkeypatch.setattr(app, "send_task", lambda name, args, **_: messages.append((name, args)))
    return messages
