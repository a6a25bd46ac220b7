"""Blocks of the store become one stream and one file, whatever their number, and never wait for the last."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from hub.query import arrow
from hub.query.arrow import arrow_stream, parquet_file

SCHEMA = pyarrow.schema([("ip.src", pyarrow.string()), ("frame.len", pyarrow.uint32())])


def block(lengths: list[int]) -> bytes:
    sink = io.BytesIO()
    with ipc.new_stream(sink, SCHEMA) as writer:
        rows = {"ip.src": [None if n % 3 else f"10.0.0.{n}" for n in lengths], "frame.len": lengths}
        writer.write_table(pyarrow.table(rows, schema=SCHEMA))
    return sink.getvalue()


@given(st.lists(st.lists(st.integers(0, 1 << 20), max_size=9), min_size=1, max_size=9), st.integers(1, 30))
def test_one_stream_and_one_file_hold_every_row(lengths: list[list[int]], group: int) -> None:
    blocks = [block(each) for each in lengths]
    flat = [length for each in lengths for length in each]
    assert ipc.open_stream(b"".join(arrow_stream(blocks))).read_all()["frame.len"].to_pylist() == flat
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "GROUP_ROWS", group)
        found = parquet.ParquetFile(io.BytesIO(b"".join(parquet_file(blocks))))
        assert found.read()["frame.len"].to_pylist() == flat
        sizes = [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)]
        assert all(size >= group for size in sizes[:-1])


@pytest.mark.parametrize("joined", [arrow_stream, parquet_file])
def test_what_is_made_is_handed_out_before_the_next_block(joined, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(arrow, "GROUP_ROWS", 1)
    asked = []

    def blocks() -> Iterator[bytes]:
        for number in range(5):
            asked.append(number)
            yield block([number] * 100)

    made = joined(blocks())
    for number in range(5):
        assert next(made)
        assert asked == list(range(number + 1))


def test_what_is_no_stream_is_refused() -> None:
    for wrong in (b"", b"PAR1", block([1])[:-1], b"\0" * 16 + arrow.END):
        with pytest.raises(ValueError, match="no Arrow IPC stream"):
            list(arrow_stream([wrong]))
