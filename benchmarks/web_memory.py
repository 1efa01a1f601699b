"""What the web process holds in memory after everything was looked at: ≤ 120 MB resident.

10,000 runs, one of them with 10 series × 1,000,000 steps, and 200 viewers of its live frames. Every kind of
page is asked for, three times over and eight at a time, before and beside the viewers.
Run: python benchmarks/web_memory.py [--runs 10000] [--viewers 200]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _databases
import _many
import curves
from live import web

ROUNDS = 3
AT_ONCE = 8
BUDGETS = {"after all of it: MB resident": 120.0}


def addresses(big: int, runs: list[int]) -> list[str]:
    """Every kind of page and answer, the heaviest of each kind."""
    chosen = ",".join(map(str, runs[:50]))
    lists = [f"/runs/?sort={sort}" for sort in ("-created", "-acc", "delta", "-gain", "name")]
    lists += ["/runs/?q=method:kd+acc>0.5", "/runs/?page=100", "/runs/csv?q=method:crd"]
    pages = [
        "/",
        "/teachers/",
        "/students/",
        "/datasets/",
        "/methods/",
        "/workers/",
        "/health/",
        "/runs/new/",
    ]
    of_run = [f"/runs/{big}/", f"/api/runs/{big}/charts", f"/api/runs/{big}/series?width=2000"]
    compared = [f"/compare/?ids={chosen}", f"/api/compare/charts?runs={chosen}"]
    compared += [f"/api/compare/series?runs={chosen}&name=loss/total,val/top1"]
    exports = [f"/api/runs/{big}/series.csv?names=loss/0", f"/api/runs/{big}/series.parquet?names=loss/0"]
    return [*lists, *pages, *of_run, *(f"/runs/{run}/" for run in runs[:20]), *compared, *exports]


def ask(port: int, cookie: str, path: str) -> int:
    """How many bytes came."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Cookie": cookie})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return sum(len(piece) for piece in iter(lambda: answer.read(1 << 16), b""))


async def watch(port: int, cookie: str, run: int, enough: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /runs/{run}/live HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    reading = asyncio.create_task(_drop(reader))
    await enough.wait()
    reading.cancel()
    writer.close()


async def _drop(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


async def with_viewers(port: int, cookie: str, run: int, count: int, paths: list[str]) -> None:
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(watch(port, cookie, run, enough))
        await asyncio.to_thread(look, port, cookie, paths)
        enough.set()


def look(port: int, cookie: str, paths: list[str]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(ROUNDS):
            list(pool.map(lambda path: ask(port, cookie, path), paths))


def measure(home: Path) -> _databases.Numbers:
    import psutil
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client

    words = arguments()
    call_command("collectstatic", verbosity=0, interactive=False)
    project = _many.fill(words.runs)
    big = curves.filled(1_000_000)
    client = Client()
    client.force_login(User.objects.create_superuser("bench", password="bench"))
    session: Any = client.session
    session["project"] = project.pk
    session.save()
    cookie = f"sessionid={client.cookies['sessionid'].value}"
    runs = list(project.runs.order_by("-created").values_list("pk", flat=True)[:50])
    paths = addresses(big.pk, runs)
    with web(home) as (process, port):
        server = psutil.Process(process.pid)
        numbers = {"idle: MB resident": server.memory_info().rss / 1e6}
        look(port, cookie, paths)
        numbers["after the pages: MB resident"] = server.memory_info().rss / 1e6
        asyncio.run(with_viewers(port, cookie, big.pk, words.viewers, paths))
        numbers["after all of it: MB resident"] = server.memory_info().rss / 1e6
        numbers["at the most: MB resident"] = _peak(server.pid)
    return numbers


def _peak(pid: int) -> float:
    """The high-water mark that Linux keeps; elsewhere 0."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--viewers", type=int, default=200)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(_databases.main("web_memory", __file__, measure, BUDGETS))
