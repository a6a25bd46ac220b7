"""Arrow blocks of the store as one Arrow IPC stream, or as one Parquet file; a block or two in memory, no more.

The store hands out each block as an Arrow IPC stream of its own, and at least one: a schema message, record batches,
and the end mark (Arrow columnar format, "IPC Streaming Format"). One stream is the first one's schema and everybody's
batches.
pyarrow comes with chDB.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from typing import Any

END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""The end mark of a stream."""
GROUP_ROWS = 1 << 16
"""Rows of a row group, about: whole blocks are gathered until there are so many, as small groups compress badly."""

_HEAD = struct.Struct("<II")  # the continuation mark, and the length of the metadata that follow
_CONTINUATION = 0xFFFFFFFF


def arrow_stream(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks as one stream. Raises ValueError for a block that is none."""
    first = True
    for block in blocks:
        if not block.endswith(END) or _HEAD.unpack_from(block)[0] != _CONTINUATION:
            raise ValueError("the store's block is no Arrow IPC stream")
        yield block[0 if first else _after_schema(block) : -len(END)]
        first = False
    yield END


def _after_schema(block: bytes) -> int:
    """Where the first message ends: a schema has metadata and no body."""
    return _HEAD.size + int(_HEAD.unpack_from(block)[1])


class _Sink(io.RawIOBase):
    """What was written since the last `taken`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._written += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        """The bytes, once."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def parquet_file(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks as one Parquet file, a row group at a time; of what is handed out only the footer's facts stay."""
    import pyarrow
    from pyarrow import parquet

    sink = _Sink()
    writer: Any = None
    for table in _gathered(blocks):
        writer = writer or parquet.ParquetWriter(sink, table.schema, compression="zstd")
        if table.num_rows:
            writer.write_table(table, row_group_size=table.num_rows)
        del table
        pyarrow.default_memory_pool().release_unused()
        yield sink.taken()
    writer.close()
    yield sink.taken()


def _gathered(blocks: Iterable[bytes]) -> Iterator[Any]:
    """Tables of GROUP_ROWS rows or more, but for the last."""
    import pyarrow

    kept: list[Any] = []
    for block in blocks:
        kept.append(_table(block))
        if sum(table.num_rows for table in kept) >= GROUP_ROWS:
            yield pyarrow.concat_tables(kept)
            kept = []
    if kept:
        yield pyarrow.concat_tables(kept)


def _table(block: bytes) -> Any:
    from pyarrow import ipc

    return ipc.open_stream(block).read_all()
