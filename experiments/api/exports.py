"""Everything runs have logged, to take home: CSV for eyes and spreadsheets, Parquet for pandas and the like.

Both are long: run, series, step, value, wall (Unix seconds); a row a point, as it was logged. Both travel
while they are made: a download of ten million points needs the memory of one chunk.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.http import HttpRequest, StreamingHttpResponse
from ninja import Router

from experiments import metric_store, parquet_writer
from experiments.models import Run, Series

from . import access
from .schemas import Message

router = Router(tags=["series"])
T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
WRITER = [sys.executable, "-m", parquet_writer.__name__]
AT_ONCE = 2  # Parquet writers, of some 100 MB each; further ones wait
BLOCK = 1 << 16  # bytes
_free = asyncio.Semaphore(AT_ONCE)


@router.get("/runs/{int:run_id}/series.csv", response={200: None, 404: Message})
def run_csv(request: HttpRequest, run_id: int, names: str = "") -> StreamingHttpResponse:
    """Every point of a run (of the series named, else of all) as CSV; not finite: nan, inf, -inf."""
    run = access.run_of(request, run_id)
    return _csv(_series([run], names), f"run-{run.pk}")


@router.get("/compare/series.csv", response={200: None, 400: Message, 404: Message})
def compare_csv(request: HttpRequest, runs: str, name: str = "") -> StreamingHttpResponse:
    """The same of several runs, at most 100, in one file."""
    return _csv(_series(access.runs_of(request, runs), name), "runs")


@router.get("/runs/{int:run_id}/series.parquet", response={200: None, 404: Message})
def run_parquet(request: HttpRequest, run_id: int, names: str = "") -> StreamingHttpResponse:
    """Every point of a run (of the series named, else of all) as Parquet."""
    run = access.run_of(request, run_id)
    return _parquet(_series([run], names), f"run-{run.pk}")


@router.get("/compare/series.parquet", response={200: None, 400: Message, 404: Message})
def compare_parquet(request: HttpRequest, runs: str, name: str = "") -> StreamingHttpResponse:
    """The same of several runs, at most 100, in one file."""
    return _parquet(_series(access.runs_of(request, runs), name), "runs")


def _series(runs: list[Run], names: str) -> list[Series]:
    wanted = access.listed(names)
    found = Series.objects.filter(run__in=runs).order_by("run_id", "name")
    return list(found.filter(name__in=wanted) if wanted else found)


def _file(parts: AsyncIterator[str] | AsyncIterator[bytes], kind: str, name: str) -> StreamingHttpResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return StreamingHttpResponse(parts, content_type=kind, headers=headers)


# --- CSV ----------------------------------------------------------------------------------------------------
def _csv(series: list[Series], name: str) -> StreamingHttpResponse:
    return _file(_sent(_lines(series)), "text/csv; charset=utf-8", f"{name}.csv")


def _lines(series: list[Series]) -> Iterator[str]:
    """A chunk at a time."""
    yield "run,series,step,value,wall\r\n"
    for one in series:
        for points in metric_store.export(one):
            rows = zip(points.step.tolist(), points.value.tolist(), points.wall.tolist(), strict=True)
            yield "".join(f"{one.run_id},{_quoted(one.name)},{s},{v!r},{w!r}\r\n" for s, v, w in rows)


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"' if any(sign in name for sign in ',"\r\n') else name


async def _sent(parts: Iterator[T]) -> AsyncIterator[T]:
    """Made in the request's own thread, where the database may be asked; others' turns come in between."""
    while (part := await sync_to_async(lambda: next(parts, None))()) is not None:
        yield part


# --- Parquet ------------------------------------------------------------------------------------------------
def _parquet(series: list[Series], name: str) -> StreamingHttpResponse:
    parts = _through_writer(_blocks(series))
    return _file(parts, "application/vnd.apache.parquet", f"{name}.parquet")


def _blocks(series: list[Series]) -> Iterator[bytes]:
    for one in series:
        for points in metric_store.export(one):
            arrays = (points.step.tobytes(), points.value.tobytes(), points.wall.tobytes())
            yield parquet_writer.block(one.run_id, one.name, *arrays)
    yield parquet_writer.END


async def _through_writer(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The file as the child makes it. RuntimeError, and with it a download cut short, where it fails."""
    async with _free:
        child = await asyncio.create_subprocess_exec(
            *WRITER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={"PATH": os.environ.get("PATH", ""), "ARROW_IO_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        feeding = asyncio.create_task(_feed(child.stdin, blocks))
        try:
            while part := await child.stdout.read(BLOCK):
                yield part
            await feeding
            if await child.wait():
                raise RuntimeError(f"the Parquet writer ended with {child.returncode}")
        finally:
            feeding.cancel()
            if child.returncode is None:  # whoever wanted the file has gone
                child.kill()
                await child.wait()


async def _feed(pipe: asyncio.StreamWriter, blocks: Iterator[bytes]) -> None:
    """No faster than the child reads."""
    async for block in _sent(blocks):
        pipe.write(block)
        await pipe.drain()
    pipe.close()
