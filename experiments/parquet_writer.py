"""Points into Parquet, in a process of its own: pyarrow alone takes as much memory as a web process.

Reads blocks of points from standard input and writes the file to standard output; holds one group of rows.
Long format: run, series, step, value, wall (Unix seconds). A block is a head (run, length of the name, number
of points), the name, and three arrays of eight bytes a point. Where the input breaks off, no end is written:
half a file is no file. Imports neither Django nor the rest of the project.
"""

from __future__ import annotations

import os
import struct
import sys
import traceback
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

HEAD = struct.Struct("<QII")
END = HEAD.pack(0, 0, 0)  # what says that nothing broke off
GROUP = 1 << 18  # rows


def block(run: int, series: str, step: bytes, value: bytes, wall: bytes) -> bytes:
    """What the writer reads: arrays of int64, float64 and float64."""
    name = series.encode()
    return b"".join((HEAD.pack(run, len(name), len(step) // 8), name, step, value, wall))


def blocks(source: BinaryIO) -> Iterator[tuple[int, str, list[bytes]]]:
    """EOFError where the end is missing."""
    while (head := _exactly(source, HEAD.size)) != END:
        run, length, count = HEAD.unpack(head)
        name = _exactly(source, length).decode()
        yield run, name, [_exactly(source, 8 * count) for _ in range(3)]


def _exactly(source: BinaryIO, size: int) -> bytes:
    found = source.read(size)
    if len(found) < size:
        raise EOFError("the points broke off")
    return found


def main(source: BinaryIO, target: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        {"run": pa.int64(), "series": names, "step": pa.int64(), "value": pa.float64(), "wall": pa.float64()}
    )
    options = {
        "compression": "zstd",
        "use_dictionary": ["run", "series"],
        "use_byte_stream_split": ["value", "wall"],
        "column_encoding": {"step": "DELTA_BINARY_PACKED"},
    }
    writer = pq.ParquetWriter(
        target, schema, **options
    )  # no `with`: it would end a broken file as a whole one
    waiting: list[pa.RecordBatch] = []

    def write() -> None:
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting).unify_dictionaries(), 2 * GROUP)
            waiting.clear()

    for run, name, (step, value, wall) in blocks(source):
        count = len(step) // 8
        columns = [
            pa.array(np.full(count, run, np.int64)),
            pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([name])),
            pa.array(np.frombuffer(step, np.int64)),
            pa.array(np.frombuffer(value, np.float64)),
            pa.array(np.frombuffer(wall, np.float64)),
        ]
        waiting.append(pa.RecordBatch.from_arrays(columns, schema=schema))
        if sum(map(len, waiting)) >= GROUP:
            write()
    write()
    writer.close()


if __name__ == "__main__":
    try:
        main(sys.stdin.buffer, sys.stdout.buffer)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # at an ordinary exit the writer would write the end after all
