"""Live frames of runs: a Redis stream a run, written by its worker, fanned out to browsers by the web.

Nothing here is the truth: points, log lines and states are in the database as well, and a reader who missed
something is told to `reload` from there. So Redis may go away at any time and costs only latency.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

BEGINNING = "0-0"
KEPT_FRAMES = 2_000  # seven minutes of five frames a second: a browser needs those since the last flush, ~1 s
KEPT_SECONDS = 24 * 3600  # after the last frame
BLOCK_MS = 4_000  # redis-py ends a read that blocks for 5 s or more
PING_SECONDS = 15.0
QUEUE_FRAMES = 256  # about a minute behind: then it is cheaper to come back and read anew
REPLAY_PAGE = 200
QUIET_SECONDS = 2.0  # how long nobody asks a Redis that did not answer
AWAY = (RedisError, OSError)
Entries = list[tuple[str, dict[str, str]]]


def key(run_id: int) -> str:
    return f"kdweb:run:{run_id}"


def position(stream_id: str) -> tuple[int, int]:
    """A stream id as something that compares."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)


# --- Writing: the worker -----------------------------------------------------------------------------------


@cache
def _writer() -> redis.Redis:
    return redis.Redis.from_url(
        settings.KDWEB_REDIS_URL,
        decode_responses=True,
        socket_connect_timeout=0.1,
        socket_timeout=0.2,
        retry=Retry(NoBackoff(), 0),
    )


_missed: set[int] = set()  # runs with frames that nobody got
_quiet_until = 0.0


def publish(run_id: int, frame: Mapping[str, Any]) -> str | None:
    """Send a frame to whoever watches the run. Its stream id, or None at once where Redis is away.

    The first frame after a lost one says so, and browsers that meet it read the points from the database.
    """
    global _quiet_until
    if time.monotonic() < _quiet_until:
        _missed.add(run_id)
        return None
    entry: dict[Any, Any] = {"f": encode(frame)}
    if run_id in _missed:
        entry["gap"] = "1"
    try:
        pipe = _writer().pipeline(transaction=False)
        pipe.xadd(key(run_id), entry, maxlen=KEPT_FRAMES, approximate=True)
        pipe.expire(key(run_id), KEPT_SECONDS)
        stream_id: str = pipe.execute()[0]
    except AWAY:
        _missed.add(run_id)
        _quiet_until = time.monotonic() + QUIET_SECONDS
        return None
    _missed.discard(run_id)
    return stream_id


def encode(frame: Mapping[str, Any]) -> str:
    """JSON as browsers read it: what is not finite becomes null."""
    try:
        return json.dumps(frame, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(frame), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# --- Reading: the web process ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """A frame as JSON text, or (no text) the word that the run must be read from the database again."""

    run_id: int
    stream_id: str = ""
    text: str = ""

    @property
    def reload(self) -> bool:
        return not self.text

    @cached_property
    def event(self) -> bytes:
        """The line of data of a server-sent event, made once for all who watch."""
        return f'data: {{"run":{self.run_id},"frame":{self.text}}}\n\n'.encode()


@dataclass(eq=False)
class Subscriber:
    """One browser's queue. Where it does not keep up, it is closed and comes back with its cursor."""

    queue: asyncio.Queue[Message | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_FRAMES))
    overflowed: bool = False

    def put(self, message: Message | None) -> None:
        """None: nothing has happened for a while."""
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.overflowed = True


class Feed:
    """The one reader of a run's stream in this process. It ends when nobody listens or Redis is away."""

    def __init__(self, client: redis.asyncio.Redis, run_id: int) -> None:
        self.client = client
        self.run_id = run_id
        self.subscribers: set[Subscriber] = set()
        self.ready = asyncio.Event()  # from here on every new frame reaches the queues
        self.task = asyncio.create_task(self.read())

    @property
    def alive(self) -> bool:
        return not self.task.done()

    async def read(self) -> None:
        try:
            newest: Entries = await self.client.xrevrange(key(self.run_id), count=1)  # type: ignore[assignment]
            after = newest[0][0] if newest else BEGINNING
            self.ready.set()
            while True:
                cursor: dict[Any, Any] = {key(self.run_id): after}
                found = await self.client.xread(cursor, count=100, block=BLOCK_MS)
                for stream_id, entry in _entries(found):
                    after = stream_id
                    self.tell(message(self.run_id, stream_id, entry))
        except AWAY:
            self.tell(Message(self.run_id))
        finally:
            self.ready.set()

    def tell(self, message: Message) -> None:
        for subscriber in self.subscribers:
            subscriber.put(message)


def message(run_id: int, stream_id: str, entry: Mapping[str, str]) -> Message:
    return Message(run_id, stream_id, "" if "gap" in entry else entry.get("f", ""))


def _entries(found: Any) -> Entries:
    """The entries in XREAD's answer: a list of streams in RESP2, a mapping in RESP3."""
    streams = found.values() if isinstance(found, dict) else [entries for _, entries in found or []]
    flat: list[Any] = []
    for entries in streams:
        # RESP3 wraps the list of entries once more
        flat += entries[0] if entries and isinstance(entries[0], list) else entries
    return flat


def _client(pool: type[redis.asyncio.ConnectionPool], **options: Any) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_pool(
        pool.from_url(
            settings.KDWEB_REDIS_URL,
            decode_responses=True,
            socket_connect_timeout=1,
            socket_timeout=BLOCK_MS / 1000 + 4,
            retry=AsyncRetry(NoBackoff(), 0),
            **options,
        )
    )


class Hub:
    """All feeds of this process."""

    def __init__(self) -> None:
        self.feeds: dict[int, Feed] = {}
        self.readers = _client(redis.asyncio.ConnectionPool, max_connections=1_000)  # one waits for each run
        self.client = _client(redis.asyncio.BlockingConnectionPool, max_connections=8, timeout=5)

    async def close(self) -> None:
        await self.readers.aclose()
        await self.client.aclose()

    def join(self, run_id: int, subscriber: Subscriber) -> Feed:
        feed = self.feeds.get(run_id)
        if feed is None or not feed.alive:
            feed = self.feeds[run_id] = Feed(self.readers, run_id)
        feed.subscribers.add(subscriber)
        return feed

    def leave(self, feed: Feed, subscriber: Subscriber) -> None:
        feed.subscribers.discard(subscriber)
        if not feed.subscribers:
            feed.task.cancel()
            if self.feeds.get(feed.run_id) is feed:
                del self.feeds[feed.run_id]

    async def replay(self, run_id: int, after: str) -> AsyncIterator[list[Message]]:
        """What the stream holds beyond the cursor; a reload where the cursor is older than all of it."""
        oldest = await self._range(run_id, "-", 1)
        if oldest and after != BEGINNING and position(after) < position(oldest[0][0]):
            yield [Message(run_id)]
            return
        while page := await self._range(run_id, f"({after}", REPLAY_PAGE):
            yield [message(run_id, stream_id, entry) for stream_id, entry in page]
            after = page[-1][0]

    async def _range(self, run_id: int, begin: str, count: int) -> Entries:
        found = await self.client.xrange(key(run_id), min=begin, count=count)
        return found  # type: ignore[return-value]  # texts: the client decodes

    async def follow(self, cursors: Mapping[int, str]) -> AsyncGenerator[list[Message], None]:
        """Every frame beyond the cursors, once, in order. An empty list is a sign of life.

        Ends after a reload, and where the reader does not keep up.
        """
        subscriber, done = Subscriber(), dict(cursors)
        feeds = [self.join(run_id, subscriber) for run_id in cursors]
        try:
            for feed in feeds:
                await feed.ready.wait()  # only now does replaying leave no hole before the live frames
                async for page in self.replay(feed.run_id, done[feed.run_id]):
                    yield page
                    if any(item.reload for item in page):
                        return
                    done[feed.run_id] = page[-1].stream_id
            async for batch in self._live(subscriber, done):
                yield batch
        except AWAY:
            yield [Message(next(iter(cursors)))]
        finally:
            for feed in feeds:
                self.leave(feed, subscriber)

    async def _live(self, subscriber: Subscriber, done: dict[int, str]) -> AsyncIterator[list[Message]]:
        later = asyncio.get_running_loop().call_later
        while not subscriber.overflowed:
            alarm = later(PING_SECONDS, subscriber.put, None)  # a third of what wait_for costs
            batch = [await subscriber.queue.get()]
            alarm.cancel()
            while not subscriber.queue.empty():
                batch.append(subscriber.queue.get_nowait())
            said = [m for m in batch if m is not None]
            fresh = [m for m in said if m.reload or position(m.stream_id) > position(done[m.run_id])]
            done.update({m.run_id: m.stream_id for m in fresh if m.stream_id})
            if fresh or not said:
                yield fresh
            if any(item.reload for item in fresh):
                return


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def hub() -> Hub:
    """The hub of this process's event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = Hub()
    return _hubs[loop]
