"""Columns as one block of ClickHouse's Native format, without a loop over rows.

    block  = varint columns, varint rows, column ...
    column = string name, string type, data
    string = varint length, bytes

Data by ClickHouse type: integers and Date little-endian one after the other; IPv6 16 bytes each, network order; String
one `string` per row; Array(T) the running end of each row's values (u64), then the values; Map(K, V) the running end
(u64), then all keys, then all values; LowCardinality(String) u64 version 1, u64 flags (index width, and bit 9: the keys
follow), u64 number of keys, the keys as String, u64 rows, one index per row. Source: ClickHouse,
`src/Formats/NativeWriter.cpp`, `src/DataTypes/Serializations/`; checked against what the engine itself writes in
tests/hub/test_native.py.

Pure. Data comes out a column at a time, of long strings a part of it: no more than that is in memory twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.columns import (
    LIST_ITEM,
    MAX_TEXT,
    NUMPY,
    Columns,
    ColumnValue,
    Dict,
    Lists,
    Maps,
    Text,
    Texts,
    items_of,
    join,
)
from protocol.schema import Column

Buffer: TypeAlias = "bytes | memoryview"

_CLASSES: dict[str, type] = {
    **dict.fromkeys(LIST_ITEM, Lists),
    "dict": Dict,
    "text": Text,
    "list_text": Texts,
    "map": Maps,
}
TEXT_STEP = 4 << 20
"""Bytes of strings that are made into a column's data at once."""
_SHARED_KEYS = 1  # version of LowCardinality's serialization
_HAS_KEYS = 1 << 9
_INDEX = (("<u1", 1 << 8), ("<u2", 1 << 16), ("<u4", 1 << 32))  # by the flags' low byte


def varint(number: int) -> bytes:
    """An unsigned integer, 7 bits a byte, low bits first (LEB128)."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def string(text: str) -> bytes:
    """One String value."""
    data = text.encode()
    return varint(len(data)) + data


def check(column: Column, value: ColumnValue | None, rows: int) -> None:
    """Raise ValueError where a value does not fit its column: in a block it would shift every later byte."""
    if value is None or len(value) != rows:
        raise ValueError(f"column {column.name} has {'no' if value is None else len(value)} rows where {rows} belong")
    if not isinstance(value, _CLASSES.get(column.wire, np.ndarray)):
        raise ValueError(f"column {column.name} ({column.wire}) holds a {type(value).__name__}")
    if isinstance(value, np.ndarray):
        if value.shape != ((rows, 16) if column.wire == "addr" else (rows,)):
            raise ValueError(f"column {column.name} has the shape {value.shape}")
        return
    if isinstance(value, Dict):
        _check_dict(column, value)
    if isinstance(value, Text):
        _check_text(column, value)
    if isinstance(value, Lists):
        _check_sum(column, value.lengths, len(value.values))
    if isinstance(value, Texts):
        _check_sum(column, value.counts, len(value.strings))
        _check_text(column, value.strings)
    if isinstance(value, Maps):
        _check_sum(column, value.counts, len(value.keys))
        _check_sum(column, value.counts, len(value.values))
        _check_dict(column, value.keys)
        _check_text(column, value.values)


def _check_dict(column: Column, value: Dict) -> None:
    if len(value) and int(value.codes.max()) >= len(value.values):
        raise ValueError(f"column {column.name} has a code beyond its {len(value.values)} strings")


def _check_text(column: Column, value: Text) -> None:
    _check_sum(column, value.lengths, len(value.data))
    if len(value.data) and int(value.lengths.max()) > MAX_TEXT:
        raise ValueError(f"column {column.name} has a string of {int(value.lengths.max())} bytes")


def _check_sum(column: Column, lengths: NDArray[Any], items: int) -> None:
    one = len(lengths) > 0 and lengths.strides == (0,)  # the same in all rows: a column that was not sent
    total = int(lengths[0]) * len(lengths) if one else int(lengths.sum(dtype=np.int64))
    if total != items:
        raise ValueError(f"column {column.name} has {items} values, its lengths say otherwise")


def _view(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _numbers(pieces: Sequence[ColumnValue], dtype: str) -> list[Buffer]:
    """Of many small pieces each would cost more than its bytes."""
    return [_view(np.asarray(join(pieces), dtype=dtype))]


def _text(value: Text) -> list[Buffer]:
    """Lengths become one or two bytes of varint before each string: MAX_TEXT is below 2**14."""
    lengths = value.lengths.astype(np.int64)
    wide = lengths > 0x7F
    prefix = 1 + wide.astype(np.int64)
    ends = np.cumsum(lengths + prefix)
    starts = ends - lengths - prefix
    out = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    is_data = np.ones(len(out), dtype=np.bool_)
    is_data[starts] = False
    out[starts] = (lengths & 0x7F) | (wide.astype(np.int64) << 7)
    second = starts[wide] + 1
    is_data[second] = False
    out[second] = lengths[wide] >> 7
    out[is_data] = value.data
    return [_view(out)]


def _ends(lengths: NDArray[Any]) -> memoryview:
    return _view(np.cumsum(lengths, dtype="<u8"))


def _lists(value: Lists, dtype: str) -> list[Buffer]:
    return [_ends(value.lengths), _view(value.values.astype(dtype, copy=False))]


def _keys(value: Dict) -> list[Buffer]:
    """The strings of a dictionary written out, one per code."""
    written = [string(text) for text in value.values]
    return [b"".join([written[code] for code in value.codes.tolist()])]


def _dict(value: Dict) -> list[Buffer]:
    width = next(i for i, (_, limit) in enumerate(_INDEX) if len(value.values) <= limit)
    head = np.array([_SHARED_KEYS, width | _HAS_KEYS, len(value.values)], dtype="<u8").tobytes()
    keys = b"".join(map(string, value.values))
    return [head, keys, np.uint64(len(value)).tobytes(), _view(value.codes.astype(_INDEX[width][0], copy=False))]


def column_data(column: Column, pieces: Sequence[ColumnValue]) -> Iterable[Buffer]:
    """The data of one column, its pieces one after the other."""
    if column.wire in NUMPY:
        return _numbers(pieces, NUMPY[column.wire])
    if column.wire == "addr":
        return _numbers(pieces, "u1")
    if column.wire == "text":
        return (buffer for some in _in_turn(pieces) for buffer in _text(some))
    joined = join(pieces)
    if isinstance(joined, Lists):
        return _lists(joined, LIST_ITEM[column.wire])
    if isinstance(joined, Texts):
        return [_ends(joined.counts), *_text(joined.strings)]
    if isinstance(joined, Maps):
        return [_ends(joined.counts), *_keys(joined.keys), *_text(joined.values)]
    assert isinstance(joined, Dict)
    return _dict(joined)


def _in_turn(pieces: Sequence[ColumnValue]) -> Iterator[Text]:
    """Strings joined, TEXT_STEP bytes at a time: what writes them takes several times their bytes."""
    turns = np.cumsum([items_of(piece) for piece in pieces]) // TEXT_STEP
    for _, some in groupby(zip(turns.tolist(), pieces, strict=True), key=itemgetter(0)):
        joined = join([piece for _, piece in some])
        assert isinstance(joined, Text)
        yield joined


def used(columns: Sequence[Column], parts: Sequence[Columns]) -> tuple[Column, ...]:
    """The columns without those of strings of few values, lists and maps that are empty in every row of `parts`: their
    default is empty."""
    return tuple(c for c in columns if c.wire not in _DEFAULTS or any(_holds(part[c.name]) for part in parts))


_DEFAULTS = ("dict", "list_text", "map", *LIST_ITEM)


def _holds(value: ColumnValue) -> bool:
    return value.values != ("",) if isinstance(value, Dict) else items_of(value) > 0


def block(columns: Sequence[Column], parts: Sequence[Columns], rows: int) -> Iterator[Buffer]:
    """One Native block: `parts` (pieces of the same columns, `rows` rows in all) one after the other.

    Yields buffers to be written in order, a column's at a time; they borrow the arrays' memory. The values must have
    passed `check`.
    """
    yield varint(len(columns)) + varint(rows)
    for column in columns:
        yield string(column.name) + string(column.clickhouse)
        yield from column_data(column, [part[column.name] for part in parts])
