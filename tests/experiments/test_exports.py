"""What is taken home is what was logged, to the last bit, whatever its kind and however many points."""

from __future__ import annotations

import asyncio
import csv
import io
import math
import subprocess
import sys
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import AsyncClient

from experiments import metric_store, parquet_writer
from experiments.api import exports
from experiments.metric_store import Points
from experiments.models import Run

from . import make

pytestmark = pytest.mark.django_db(transaction=True)
NAMES = ["loss/total", 'odd, "name"']
COUNT = 10_000


def values(seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=COUNT)
    found[[5, 6, 7]] = math.nan, math.inf, -math.inf
    return found


@pytest.fixture
def runs() -> list[Run]:
    made = [make.a_running_run(name=name) for name in ("one", "two")]
    steps = np.arange(1, COUNT + 1)
    for run in made:
        for seed, name in enumerate(NAMES):
            points = Points(steps, values(run.pk + seed), 1.7e9 + steps / 7)
            metric_store.append(run.pk, 1, {name: points})
    return made


def download(path: str) -> tuple[Any, bytes]:
    user = User.objects.create_superuser("root", password="x")

    async def get() -> tuple[Any, bytes]:
        client = AsyncClient()
        await client.aforce_login(user)
        response = await client.get(f"/api/{path}")
        return response, b"".join([part async for part in response.streaming_content])

    return async_to_sync(get)()


def assert_all(rows: list[tuple[int, str, int, float, float]], runs: list[Run]) -> None:
    """Every point of every series of the runs, in order."""
    at = 0
    for run in runs:
        for seed, name in enumerate(NAMES):
            part = rows[at : at + COUNT]
            at += COUNT
            assert {(row[0], row[1]) for row in part} == {(run.pk, name)}
            assert [row[2] for row in part] == list(range(1, COUNT + 1))
            assert np.array_equal([row[3] for row in part], values(run.pk + seed), equal_nan=True)
            assert [row[4] for row in part] == [1.7e9 + step / 7 for step in range(1, COUNT + 1)]
    assert at == len(rows)


def test_csv_holds_every_point_to_the_last_digit(runs: list[Run]) -> None:
    response, body = download(f"runs/{runs[0].pk}/series.csv")
    assert response["Content-Disposition"] == f'attachment; filename="run-{runs[0].pk}.csv"'
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert [row["value"] for row in rows[5:8]] == ["nan", "inf", "-inf"]
    exact = [(int(r["run"]), r["series"], int(r["step"]), float(r["value"]), float(r["wall"])) for r in rows]
    assert_all(exact, runs[:1])


def test_parquet_of_several_runs_holds_every_point_to_the_last_bit(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    response, body = download(f"compare/series.parquet?runs={runs[0].pk},{runs[1].pk}")
    assert response["Content-Disposition"] == 'attachment; filename="runs.parquet"'
    table = pq.read_table(io.BytesIO(body))
    columns = [table[name].to_pylist() for name in ("run", "series", "step", "value", "wall")]
    assert_all(list(zip(*columns, strict=True)), runs)


def test_named_series_alone_are_exported(runs: list[Run]) -> None:
    _, body = download(f"runs/{runs[0].pk}/series.parquet?names=loss/total")
    assert set(pq.read_table(io.BytesIO(body))["series"].to_pylist()) == {"loss/total"}


def test_a_run_without_points_is_an_empty_table() -> None:
    _, body = download(f"runs/{make.a_running_run().pk}/series.parquet")
    table = pq.read_table(io.BytesIO(body))
    assert (table.num_rows, table.column_names) == (0, ["run", "series", "step", "value", "wall"])


def test_many_points_become_groups_of_rows_that_a_reader_takes_one_by_one() -> None:
    count = parquet_writer.GROUP // 4
    data = np.arange(count).tobytes(), np.arange(count * 1.0).tobytes(), np.ones(count).tobytes()
    said = b"".join(parquet_writer.block(7, f"s{n}", *data) for n in range(10)) + parquet_writer.END
    file = pq.ParquetFile(io.BytesIO(written(said).stdout))
    assert file.metadata.num_row_groups == 3
    assert file.metadata.num_rows == 10 * count
    assert file.read_row_group(2)["series"].to_pylist()[::count] == ["s8", "s9"]


def test_points_that_break_off_are_no_file() -> None:
    data = np.arange(5).tobytes(), np.arange(5.0).tobytes(), np.ones(5).tobytes()
    done = written(parquet_writer.block(7, "s", *data))
    assert done.returncode
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(io.BytesIO(done.stdout))


def written(said: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "experiments.parquet_writer"], input=said, capture_output=True, timeout=60
    )


def test_whoever_goes_away_leaves_no_writer_behind(runs: list[Run]) -> None:
    async def main() -> None:
        parts = exports._through_writer(exports._blocks([]))
        await anext(parts)
        await parts.aclose()

    asyncio.run(main())
    left = [child for child in psutil.Process().children() if "parquet_writer" in " ".join(child.cmdline())]
    assert left == []
