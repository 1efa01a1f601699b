"""A network that can be broken: a forwarder between a worker and Redis or PostgreSQL, in a thread."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

from .servers import Broker, Postgres, short_folder


class Proxy:
    """Forwards a unix socket to another. `cut`: connections are closed and refused. `stall`: what is sent
    is swallowed, and a connection that lost bytes stays deaf for ever, as behind a router that forgot it;
    with `keep` the bytes wait instead and arrive late. `heal`: new connections work again."""

    def __init__(self, upstream: Path, name: str) -> None:
        self.folder = short_folder()
        self.socket, self.upstream = self.folder / name, upstream
        self.mode = "open"
        self.writers: set[asyncio.StreamWriter] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(10)

    @classmethod
    def of_broker(cls, broker: Broker) -> Proxy:
        return cls(broker.socket, "redis.sock")

    @classmethod
    def of_postgres(cls, database: Postgres) -> Proxy:
        return cls(database.folder / ".s.PGSQL.5432", ".s.PGSQL.5432")

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def redis_url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def database_url(self) -> str:
        return f"postgres://kdweb@/postgres?host={self.folder}"

    def cut(self) -> None:
        self.mode = "cut"
        self._call(self._close_all)

    def stall(self, keep: bool = False) -> None:
        self.mode = "keep" if keep else "swallow"

    def heal(self) -> None:
        self.mode = "open"

    def close(self) -> None:
        self._call(self.server.close)  # else it would take callers that nobody serves any more
        self.cut()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- In the thread ----------------------------------------------------------------------------------
    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.05))
        self.loop.close()

    def _call(self, act: object) -> None:
        async def done() -> None:
            act()  # type: ignore[operator]

        asyncio.run_coroutine_threadsafe(done(), self.loop).result(10)

    async def _listen(self) -> None:
        self.server = await asyncio.start_unix_server(self._joined, str(self.socket))
        self.socket.chmod(0o777)

    def _close_all(self) -> None:
        for writer in self.writers:
            writer.close()
        self.writers.clear()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "cut":
            writer.close()
            return
        try:
            there, back = await asyncio.open_unix_connection(str(self.upstream))
        except OSError:  # the server itself is away
            writer.close()
            return
        pair = {writer, back}
        self.writers |= pair
        link = {"deaf": self.mode == "swallow"}
        await asyncio.wait(
            [asyncio.create_task(self._copy(a, b, link)) for a, b in ((reader, back), (there, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for one in pair:
            one.close()
        self.writers -= pair

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, link: dict[str, bool]
    ) -> None:
        try:
            while data := await source.read(1 << 16):
                while self.mode == "keep":
                    await asyncio.sleep(0.05)
                link["deaf"] |= self.mode == "swallow"
                if not link["deaf"]:
                    target.write(data)
                    await target.drain()
        except OSError:
            return
