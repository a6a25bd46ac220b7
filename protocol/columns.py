"""Columns in memory and as bytes.

In memory a table's rows are a `Columns`: a dict from column name to a value whose shape follows the column's `wire`:

    u1 u2 u4 u8 i8    numpy array of that type, shape (rows,)
    addr              numpy uint8, shape (rows, 16), network order
    dict              `Dict`: codes (rows,) uint32 and the tuple of strings they index
    text              `Text`: lengths (rows,) uint32 and the bytes one after the other, UTF-8
    list_u2 list_u4   `Lists`: lengths (rows,) uint8 and the values one after the other

On the wire a column is a list `[encoding, payload, ...]`, encodings:

    ["raw", bytes]                    little-endian values (addr: 16 bytes each)
    ["const", bytes]                  one value, the same in every row
    ["delta", bytes8, width, bytes]   first value (8 bytes), then the differences as signed integers of `width` bytes
    ["dict", width, codes, [str]]     codes as unsigned integers of `width` bytes
    ["text", lengths, bytes]          lengths as u4
    ["list", lengths, bytes]          lengths as u1

Decoding checks everything it takes: a payload that does not fit the row count raises `WrongBatch`, and nothing is
allocated beyond what the payload itself holds times eight (a `const` column is a broadcast view).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.errors import LocalError, WrongBatch
from protocol.schema import Column, Table

Array: TypeAlias = NDArray[Any]

NUMPY = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "u8": "<u8", "i8": "<i8"}
LIST_ITEM = {"list_u2": "<u2", "list_u4": "<u4"}
MAX_TEXT = 4096
"""Longest string of a text column, bytes."""
MAX_DICT = 65536
"""Most distinct strings of a dict column in one batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Dict:
    """Strings of few distinct values: `codes` (rows,) uint32 into `values`."""

    codes: Array
    values: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Strings of many values: `lengths` (rows,) uint32 in bytes, `data` uint8 of their sum."""

    lengths: Array
    data: Array

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Several integers a row: `lengths` (rows,) uint8, `values` of their sum."""

    lengths: Array
    values: Array

    def __len__(self) -> int:
        return len(self.lengths)


ColumnValue: TypeAlias = "Array | Dict | Text | Lists"
Columns: TypeAlias = "dict[str, ColumnValue]"


def text_of(strings: Sequence[str]) -> Text:
    """A `Text` of Python strings; each is cut to MAX_TEXT bytes at a character boundary."""
    parts = [s.encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore").encode() for s in strings]
    lengths = np.fromiter((len(p) for p in parts), dtype="<u4", count=len(parts))
    return Text(lengths, np.frombuffer(b"".join(parts), dtype=np.uint8))


def empty(column: Column, rows: int) -> ColumnValue:
    """The value of a column that means nothing in any row: zeros, empty strings, empty lists."""
    if column.wire == "addr":
        return np.zeros((rows, 16), dtype=np.uint8)
    if column.wire == "dict":
        return Dict(np.zeros(rows, dtype="<u4"), ("",))
    if column.wire == "text":
        return Text(np.zeros(rows, dtype="<u4"), np.zeros(0, dtype=np.uint8))
    if column.wire in LIST_ITEM:
        return Lists(np.zeros(rows, dtype="u1"), np.zeros(0, dtype=LIST_ITEM[column.wire]))
    return np.zeros(rows, dtype=NUMPY[column.wire])


def _starts(lengths: Array) -> Array:
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def ragged_take(lengths: Array, values: Array, index: Array) -> tuple[Array, Array]:
    """Rows `index` of ragged `values`: their lengths and their values, one after the other."""
    starts = _starts(lengths)
    taken = lengths[index]
    total = int(taken.sum())
    if total == 0:
        return taken, values[:0]
    shift = np.repeat(starts[:-1][index] - _starts(taken)[:-1], taken)
    return taken, values[np.arange(total) + shift]


def take(value: ColumnValue, index: Array) -> ColumnValue:
    """The rows `index` (integers) of a column."""
    if isinstance(value, Dict):
        return Dict(value.codes[index], value.values)
    if isinstance(value, Text):
        return Text(*ragged_take(value.lengths, value.data, index))
    if isinstance(value, Lists):
        return Lists(*ragged_take(value.lengths, value.values, index))
    return value[index]


def cut(value: ColumnValue, start: int, stop: int) -> ColumnValue:
    """The rows `start:stop` of a column, without copying."""
    if isinstance(value, Dict):
        return Dict(value.codes[start:stop], value.values)
    if isinstance(value, Text):
        edge = _starts(value.lengths)
        return Text(value.lengths[start:stop], value.data[edge[start] : edge[stop]])
    if isinstance(value, Lists):
        edge = _starts(value.lengths)
        return Lists(value.lengths[start:stop], value.values[edge[start] : edge[stop]])
    return value[start:stop]


def join(values: Sequence[ColumnValue]) -> ColumnValue:
    """Several pieces of one column, one after the other."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, Dict):
        return _join_dicts([v for v in values if isinstance(v, Dict)])
    if isinstance(first, Text):
        texts = [v for v in values if isinstance(v, Text)]
        return Text(np.concatenate([t.lengths for t in texts]), np.concatenate([t.data for t in texts]))
    if isinstance(first, Lists):
        lists = [v for v in values if isinstance(v, Lists)]
        return Lists(np.concatenate([t.lengths for t in lists]), np.concatenate([t.values for t in lists]))
    return np.concatenate([np.asarray(v) for v in values])


def _join_dicts(parts: Sequence[Dict]) -> Dict:
    if all(part.values == parts[0].values for part in parts):
        return Dict(np.concatenate([part.codes for part in parts]), parts[0].values)
    index: dict[str, int] = {}
    codes = []
    for part in parts:
        new = np.array([index.setdefault(value, len(index)) for value in part.values], dtype="<u4")
        codes.append(new[part.codes] if len(new) else part.codes)
    return Dict(np.concatenate(codes), tuple(index))


# -- to the wire ---------------------------------------------------------------------------------------------------


def _pack_integers(array: Array, column: Column) -> list[Any]:
    array = np.ascontiguousarray(array, dtype=NUMPY[column.wire])
    if len(array) and bool((array == array[0]).all()):
        return ["const", array[:1].tobytes()]
    if column.wire in ("i8", "u8") and len(array) > 1:
        difference = np.diff(array.view("<i8"))  # wraps around as the reader's sum does
        low, high = int(difference.min()), int(difference.max())
        for width in (1, 2, 4):
            if -(1 << (8 * width - 1)) <= low and high < 1 << (8 * width - 1):
                return ["delta", array[:1].tobytes(), width, difference.astype(f"<i{width}").tobytes()]
    return ["raw", array.tobytes()]


def pack_column(column: Column, value: ColumnValue) -> list[Any]:
    """One column as its wire list. Raises LocalError where the value has not the column's shape."""
    if isinstance(value, Dict) and column.wire == "dict":
        width = 1 if len(value.values) <= 256 else 2
        if len(value.values) > MAX_DICT:
            raise LocalError(f"column {column.name}: {len(value.values)} distinct strings")
        return ["dict", width, value.codes.astype(f"<u{width}").tobytes(), list(value.values)]
    if isinstance(value, Text) and column.wire == "text":
        return ["text", value.lengths.astype("<u4").tobytes(), np.ascontiguousarray(value.data).tobytes()]
    if isinstance(value, Lists) and column.wire in LIST_ITEM:
        items = value.values.astype(LIST_ITEM[column.wire])
        return ["list", value.lengths.astype("u1").tobytes(), items.tobytes()]
    if isinstance(value, np.ndarray) and column.wire == "addr":
        if len(value) and bool((value == value[0]).all()):
            return ["const", value[0].tobytes()]
        return ["raw", np.ascontiguousarray(value).tobytes()]
    if isinstance(value, np.ndarray) and column.wire in NUMPY:
        return _pack_integers(value, column)
    raise LocalError(f"column {column.name} ({column.wire}) cannot hold a {type(value).__name__}")


def pack_columns(table: Table, columns: Columns) -> dict[str, list[Any]]:
    """All columns of a table as the map that goes into a batch."""
    return {column.name: pack_column(column, columns[column.name]) for column in table.columns}


# -- from the wire -------------------------------------------------------------------------------------------------


def _bytes(column: Column, value: object, size: int) -> bytes:
    if not isinstance(value, bytes):
        raise WrongBatch("bad_column", f"{column.name}: a {type(value).__name__} where bytes belong")
    if len(value) != size:
        raise WrongBatch("bad_column", f"{column.name}: {len(value)} bytes where {size} belong")
    return value


def _item(column: Column) -> tuple[str, int]:
    if column.wire == "addr":
        return "u1", 16
    dtype = NUMPY[column.wire]
    return dtype, np.dtype(dtype).itemsize


def _unpack_raw(column: Column, parts: Sequence[Any], rows: int) -> Array:
    dtype, size = _item(column)
    (payload,) = parts
    array = np.frombuffer(_bytes(column, payload, rows * size), dtype=dtype)
    return array.reshape(rows, 16) if column.wire == "addr" else array


def _unpack_const(column: Column, parts: Sequence[Any], rows: int) -> Array:
    dtype, size = _item(column)
    (payload,) = parts
    one = np.frombuffer(_bytes(column, payload, size), dtype=dtype)
    return np.broadcast_to(one, (rows, 16)) if column.wire == "addr" else np.broadcast_to(one[0], (rows,))


def _unpack_delta(column: Column, parts: Sequence[Any], rows: int) -> Array:
    first, width, payload = parts
    if column.wire not in ("i8", "u8") or width not in (1, 2, 4) or rows < 1:
        raise WrongBatch("bad_column", f"{column.name}: delta of width {width!r} over {rows} rows")
    out = np.empty(rows, dtype="<i8")
    out[0] = np.frombuffer(_bytes(column, first, 8), dtype="<i8")[0]
    out[1:] = np.frombuffer(_bytes(column, payload, (rows - 1) * width), dtype=f"<i{width}")
    np.cumsum(out, out=out)
    return out.view(NUMPY[column.wire])


def _unpack_dict(column: Column, parts: Sequence[Any], rows: int) -> Dict:
    width, payload, values = parts
    if width not in (1, 2) or not isinstance(values, list) or len(values) > MAX_DICT:
        raise WrongBatch("bad_column", f"{column.name}: not a dictionary")
    for value in values:
        _check_string(column, value)
    codes = np.frombuffer(_bytes(column, payload, rows * width), dtype=f"<u{width}").astype("<u4")
    if rows and (not values or int(codes.max()) >= len(values)):
        raise WrongBatch("bad_column", f"{column.name}: a code beyond the {len(values)} strings")
    return Dict(codes, tuple(values))


def _check_string(column: Column, value: object) -> None:
    if not isinstance(value, str):
        raise WrongBatch("bad_utf8", f"{column.name}: a string is not UTF-8")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise WrongBatch("bad_utf8", f"{column.name}: a string is not UTF-8") from None
    if size > MAX_TEXT:
        raise WrongBatch("too_large", f"{column.name}: a string of {size} bytes")


def _unpack_text(column: Column, parts: Sequence[Any], rows: int) -> Text:
    sizes, payload = parts
    lengths = np.frombuffer(_bytes(column, sizes, rows * 4), dtype="<u4")
    if rows and int(lengths.max()) > MAX_TEXT:
        raise WrongBatch("too_large", f"{column.name}: a string of {int(lengths.max())} bytes")
    data = np.frombuffer(_bytes(column, payload, int(lengths.sum(dtype=np.int64))), dtype=np.uint8)
    _check_utf8(column, lengths, data)
    return Text(lengths, data)


def _check_utf8(column: Column, lengths: Array, data: Array) -> None:
    """Every string by itself must be UTF-8: the whole is, and no string begins inside a character."""
    try:
        data.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        raise WrongBatch("bad_utf8", f"{column.name}: a string is not UTF-8") from None
    starts = _starts(lengths)[:-1][lengths > 0]
    if bool(((data[starts] & 0xC0) == 0x80).any()):
        raise WrongBatch("bad_utf8", f"{column.name}: a string begins inside a character")


def _unpack_list(column: Column, parts: Sequence[Any], rows: int) -> Lists:
    sizes, payload = parts
    lengths = np.frombuffer(_bytes(column, sizes, rows), dtype="u1")
    dtype = np.dtype(LIST_ITEM[column.wire])
    total = int(lengths.sum(dtype=np.int64)) * dtype.itemsize
    return Lists(lengths, np.frombuffer(_bytes(column, payload, total), dtype=dtype))


_NUMBERS = {"raw": (1, _unpack_raw), "const": (1, _unpack_const), "delta": (3, _unpack_delta)}
_ENCODINGS: dict[str, dict[str, tuple[int, Any]]] = {
    **dict.fromkeys(NUMPY, _NUMBERS),
    "addr": {"raw": (1, _unpack_raw), "const": (1, _unpack_const)},
    "dict": {"dict": (3, _unpack_dict)},
    "text": {"text": (2, _unpack_text)},
    **{wire: {"list": (2, _unpack_list)} for wire in LIST_ITEM},
}


def unpack_column(column: Column, packed: object, rows: int) -> ColumnValue:
    """One column from its wire list. Raises WrongBatch where it lies about itself."""
    if not isinstance(packed, list) or not packed or not isinstance(packed[0], str):
        raise WrongBatch("bad_column", f"{column.name}: not a column")
    arity, unpack = _ENCODINGS[column.wire].get(packed[0], (-1, None))
    if unpack is None or len(packed) != arity + 1:
        raise WrongBatch("bad_column", f"{column.name}: encoding {packed[0][:20]!r} does not fit {column.wire}")
    value: ColumnValue = unpack(column, packed[1:], rows)
    return value


def unpack_columns(table: Table, packed: Mapping[str, object], rows: int) -> tuple[Columns, int]:
    """A batch's columns and how many unknown ones were dropped; a column that is absent is empty.

    Raises WrongBatch where a known column lies.
    """
    columns: Columns = {}
    for column in table.columns:
        sent = packed.get(column.name)
        columns[column.name] = empty(column, rows) if sent is None else unpack_column(column, sent, rows)
    known = {column.name for column in table.columns}
    return columns, sum(name not in known for name in packed)
