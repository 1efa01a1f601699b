"""At most so many pages are worked on at a time; the rest wait their turn for a moment.

Under ASGI each request has a thread and with it a connection to the database. When two hundred tabs come back
at once, after a restart, that would be two hundred connections, and a server that has a hundred refuses the
rest. An event stream counts until its first byte: after that it holds neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

AT_ONCE = 16
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
WITH_BODY = {b"content-length", b"transfer-encoding"}


def gated(app: App, at_once: int = AT_ONCE) -> App:
    """The application behind the gate. What brings a body passes: who sends it slowly would keep a place."""
    free = asyncio.Semaphore(at_once)

    async def handle(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or any(name in WITH_BODY for name, _ in scope["headers"]):
            await app(scope, receive, send)
            return
        await free.acquire()
        waiting = [free.release]  # called once, at the first byte or at the end

        async def answer(message: Mapping[str, Any]) -> None:
            if waiting:
                waiting.pop()()
            await send(message)

        try:
            await app(scope, receive, answer)
        finally:
            if waiting:
                waiting.pop()()

    return handle
