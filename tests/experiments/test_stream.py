"""Live frames: what is published reaches every reader once, in order, or the reader is told to reload."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django.fixtures import Settings

from experiments import stream
from kdweb import embedded_redis

pytestmark = [pytest.mark.server]


@pytest.fixture
def client(redis_url: str, settings: Settings) -> Iterator[redis.Redis]:
    settings.KDWEB_REDIS_URL = redis_url
    forget()
    connection = redis.Redis.from_url(redis_url, decode_responses=True)
    connection.flushall()
    yield connection
    forget()


def forget() -> None:
    stream._writer.cache_clear()
    stream._missed.clear()
    stream._quiet_until = 0.0


def frame(step: int) -> dict[str, Any]:
    return {"points": {"loss/total": {"s": [step], "v": [1 / step], "w": [1.7e9 + step]}}}


def published(run_id: int, first: int, last: int) -> list[str]:
    ids = [stream.publish(run_id, frame(step)) for step in range(first, last + 1)]
    assert None not in ids
    return [str(stream_id) for stream_id in ids]


async def take(hub: stream.Hub, cursors: dict[int, str], count: int) -> list[stream.Message]:
    taken: list[stream.Message] = []
    async with aclosing(hub.follow(cursors)) as batches:
        async for batch in batches:
            taken += batch
            if len(taken) >= count:
                break
    return taken


def steps(messages: list[stream.Message]) -> list[int]:
    return [json.loads(m.text)["points"]["loss/total"]["s"][0] for m in messages]


def run(main: Callable[[stream.Hub], Awaitable[Any]], seconds: float = 20) -> Any:
    async def body() -> Any:
        hub = stream.Hub()
        try:
            return await asyncio.wait_for(main(hub), seconds)
        finally:
            await hub.close()

    return asyncio.run(body())


def test_what_was_published_before_and_after_joining_arrives_once_and_in_order(client: redis.Redis) -> None:
    ids = published(1, 1, 50)

    async def main(hub: stream.Hub) -> list[stream.Message]:
        reader = asyncio.create_task(take(hub, {1: ids[9]}, 90))
        for step in range(51, 101):
            await asyncio.to_thread(published, 1, step, step)
        return await reader

    assert steps(run(main)) == list(range(11, 101))


def test_a_reader_who_comes_back_with_the_last_id_continues_exactly(client: redis.Redis) -> None:
    published(1, 1, 30)

    async def main(hub: stream.Hub) -> list[stream.Message]:
        first = await take(hub, {1: stream.BEGINNING}, 30)
        await asyncio.to_thread(published, 1, 31, 40)
        return first + await take(hub, {1: first[-1].stream_id}, 10)

    assert steps(run(main)) == list(range(1, 41))


def test_two_hundred_viewers_share_one_reader(client: redis.Redis) -> None:
    published(1, 1, 1)

    async def main(hub: stream.Hub) -> tuple[int, list[list[int]]]:
        viewers = [asyncio.create_task(take(hub, {1: stream.BEGINNING}, 11)) for _ in range(200)]
        await asyncio.sleep(1)
        blocked = sum("xread" in c["cmd"] for c in client.client_list() if "b" in c["flags"])
        await asyncio.to_thread(published, 1, 2, 11)
        return blocked, [steps(messages) for messages in await asyncio.gather(*viewers)]

    readers, seen = run(main)
    assert readers == 1
    assert seen == [list(range(1, 12))] * 200


def test_one_connection_follows_several_runs(client: redis.Redis) -> None:
    ids = {1: published(1, 1, 5)[1], 2: published(2, 1, 5)[2]}

    async def main(hub: stream.Hub) -> list[stream.Message]:
        return await take(hub, ids, 5)

    messages = run(main)
    assert steps([m for m in messages if m.run_id == 1]) == [3, 4, 5]
    assert steps([m for m in messages if m.run_id == 2]) == [4, 5]


def test_a_cursor_older_than_the_stream_reloads(client: redis.Redis) -> None:
    ids = published(1, 1, 10)
    client.xtrim(stream.key(1), maxlen=5, approximate=False)

    async def main(hub: stream.Hub) -> list[stream.Message]:
        return await take(hub, {1: ids[2]}, 1)

    assert run(main) == [stream.Message(1)]


def test_the_frame_after_a_lost_one_reloads(client: redis.Redis) -> None:
    before = published(1, 1, 1)[0]
    client.set(stream.key(2), "not a stream")
    assert stream.publish(2, frame(1)) is None
    assert stream.publish(1, frame(2)) is None  # quiet for a moment
    stream._quiet_until = 0.0
    after = published(1, 3, 4)[0]

    async def main(hub: stream.Hub) -> tuple[list[stream.Message], list[stream.Message]]:
        return await take(hub, {1: before}, 1), await take(hub, {1: after}, 1)

    lost, resumed = run(main)
    assert lost[0].reload
    assert steps(resumed) == [4]


def test_a_slow_reader_is_let_go(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "QUEUE_FRAMES", 8)
    published(1, 1, 1)

    async def slow(batches: AsyncIterator[list[stream.Message]]) -> list[stream.Message]:
        seen = await anext(batches)
        following = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(1)  # it has replayed all there was, and waits for what comes
        await asyncio.to_thread(published, 1, 2, 2)
        seen += await following
        await asyncio.to_thread(published, 1, 3, 60)
        await asyncio.sleep(0.3)
        async for batch in batches:
            seen += batch
        return seen

    async def main(hub: stream.Hub) -> list[int]:
        seen = await slow(hub.follow({1: stream.BEGINNING}))
        assert len(seen) < 20
        seen += await take(hub, {1: seen[-1].stream_id}, 60 - len(seen))
        return steps(seen)

    assert run(main) == list(range(1, 61))


def test_nobody_listens_then_nobody_reads(client: redis.Redis) -> None:
    published(1, 1, 1)

    async def main(hub: stream.Hub) -> dict[int, stream.Feed]:
        await take(hub, {1: stream.BEGINNING}, 1)
        return hub.feeds

    assert run(main) == {}


def test_redis_away_costs_the_worker_no_time_and_the_reader_a_reload(
    tmp_path: Path, settings: Settings
) -> None:
    settings.KDWEB_REDIS_URL = f"unix://{tmp_path}/nothing.sock"
    forget()
    begin = time.perf_counter()
    assert [stream.publish(1, frame(step)) for step in range(1, 1001)] == [None] * 1000
    assert time.perf_counter() - begin < 3

    async def main(hub: stream.Hub) -> list[stream.Message]:
        return await take(hub, {1: stream.BEGINNING}, 1)

    assert run(main)[0].reload
    forget()


def test_a_redis_that_answers_nothing_is_soon_given_up(
    settings: Settings,
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        settings.KDWEB_REDIS_URL = f"redis://127.0.0.1:{deaf.getsockname()[1]}"
        forget()
        begin = time.perf_counter()
        assert stream.publish(1, frame(1)) is None
        assert time.perf_counter() - begin < 3
    forget()


def test_redis_going_away_reloads_whoever_watches(tmp_path: Path, settings: Settings) -> None:
    with embedded_redis.running(tmp_path) as url:
        settings.KDWEB_REDIS_URL = url
        forget()
        published(1, 1, 1)

        async def main(hub: stream.Hub) -> list[stream.Message]:
            reader = asyncio.create_task(take(hub, {1: stream.BEGINNING}, 2))
            await asyncio.sleep(0.5)
            with redis.Redis.from_url(url) as admin:
                await asyncio.to_thread(admin.shutdown, nosave=True)
            return await reader

        assert [m.reload for m in run(main)] == [False, True]
    forget()


def test_the_stream_is_bounded_and_goes_away_by_itself(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "KEPT_FRAMES", 100)
    published(1, 1, 500)
    assert int(client.xlen(stream.key(1))) <= 200
    assert 0 < int(client.ttl(stream.key(1))) <= stream.KEPT_SECONDS


def test_what_is_not_finite_travels_as_null() -> None:
    text = stream.encode({"v": [float("nan"), 1.0, float("inf")], "eta": float("-inf"), "log": [{"n": 1}]})
    assert json.loads(text) == {"v": [None, 1.0, None], "eta": None, "log": [{"n": 1}]}
