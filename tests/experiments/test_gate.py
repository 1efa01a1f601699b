"""The gate before the pages: a crowd waits its turn; nobody keeps a place by being slow or by listening."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from kdweb.gate import Receive, Send, gated

GET: dict[str, Any] = {"type": "http", "headers": []}
POST: dict[str, Any] = {"type": "http", "headers": [(b"content-length", b"9")]}


class Crowd:
    """Requests that are worked on for as long as `door` is shut, then say their first byte and listen on."""

    def __init__(self) -> None:
        self.inside = self.most = self.answered = 0
        self.door, self.close = asyncio.Event(), asyncio.Event()

    async def app(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.door.wait()
        self.inside -= 1
        if scope.get("fails"):
            raise ValueError
        await send({"type": "http.response.start"})
        self.answered += 1
        await self.close.wait()


async def nothing() -> Mapping[str, Any]:
    return {}


async def sent(message: Mapping[str, Any]) -> None:
    """To nobody."""


async def settled() -> None:
    for _ in range(1_000):
        await asyncio.sleep(0)


def test_a_crowd_is_let_in_by_threes_and_streams_do_not_count() -> None:
    async def main() -> None:
        crowd = Crowd()
        app = gated(crowd.app, at_once=3)
        failing = [GET | {"fails": True}] * 5
        tasks = [asyncio.create_task(app(scope, nothing, sent)) for scope in failing + [GET] * 20]
        await settled()
        assert crowd.inside == 3
        body = asyncio.create_task(app(POST, nothing, sent))  # who brings a body is not held up, nor holds up
        await settled()
        assert crowd.inside == 4
        crowd.door.set()
        await settled()
        assert crowd.answered == 21  # all of them at once are open streams by now
        assert crowd.most == 4
        crowd.close.set()
        ended = await asyncio.gather(*tasks, body, return_exceptions=True)
        assert sum(isinstance(one, ValueError) for one in ended) == 5

    asyncio.run(asyncio.wait_for(main(), 30))
