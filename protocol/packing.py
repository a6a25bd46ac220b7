"""Columns as bytes.

On the wire a column is a list `[encoding, payload, ...]`, encodings:

    ["raw", bytes]                    little-endian values (addr: 16 bytes each)
    ["const", bytes]                  one value, the same in every row
    ["delta", bytes8, width, bytes]   first value (8 bytes), then the differences as signed integers of `width` bytes
    ["dict", width, codes, [str]]     codes as unsigned integers of `width` bytes
    ["text", lengths, bytes]          lengths as u4
    ["list", lengths, bytes]          lengths as u1
    ["texts", counts, lengths, bytes] counts as u1, then the strings as in text
    ["map", counts, width, codes, [str], lengths, bytes]
                                      counts as u1, then the keys as in dict and the values as in text

A column that is zero or empty in every row is not sent.

Decoding checks everything it takes: a payload that does not fit the row count raises `WrongBatch`, and nothing is
allocated beyond what the payload itself holds times eight: a `const` column and one that was not sent are broadcast
views. What is decoded is read-only. Encoding never changes a value: what does not fit raises `LocalError`.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protocol.columns import (
    LIST_ITEM,
    MAX_DICT,
    MAX_ITEMS,
    MAX_TEXT,
    NUMPY,
    Array,
    Columns,
    ColumnValue,
    Dict,
    Lists,
    Maps,
    Text,
    Texts,
    absent,
    items_of,
    starts_of,
    stretch,
    utf8_of,
)
from protocol.errors import LocalError, WrongBatch
from protocol.schema import Column, Table

_UTF8_STEP = 1 << 20


# -- to the wire ---------------------------------------------------------------------------------------------------


def _fit(column: Column, array: Array, dtype: str) -> Array:
    """`array` as contiguous `dtype`; LocalError where that would change a value."""
    if array.dtype != dtype and array.size:
        info = np.iinfo(dtype)
        if array.dtype.kind not in "iub" or int(array.min()) < info.min or int(array.max()) > info.max:
            raise LocalError(f"column {column.name}: {array.dtype} values do not fit {dtype}")
    return np.ascontiguousarray(array, dtype=dtype)


def _pack_integers(column: Column, value: Array) -> list[Any]:
    array = _fit(column, value, NUMPY[column.wire])
    if len(array) and bool((array == array[0]).all()):
        return ["const", array[:1].tobytes()]
    if column.wire in ("i8", "u8") and len(array) > 1:
        difference = np.diff(array.view("<i8"))  # wraps around as the reader's sum does
        low, high = int(difference.min()), int(difference.max())
        for width in (1, 2, 4):
            if -(1 << (8 * width - 1)) <= low and high < 1 << (8 * width - 1):
                return ["delta", array[:1].tobytes(), width, difference.astype(f"<i{width}").tobytes()]
    return ["raw", array.tobytes()]


def _pack_addresses(column: Column, value: Array) -> list[Any]:
    array = _fit(column, value, "u1")
    if len(array) and bool((array == array[0]).all()):
        return ["const", array[0].tobytes()]
    return ["raw", array.tobytes()]


def _pack_dict(column: Column, value: Dict) -> list[Any]:
    size = len(value.values)
    if size > MAX_DICT:
        raise LocalError(f"column {column.name}: {size} distinct strings, the limit is {MAX_DICT}")
    if len(value.codes) and not 0 <= int(value.codes.min()) <= int(value.codes.max()) < size:
        raise LocalError(f"column {column.name}: a code beyond the {size} strings")
    width = 1 if size <= 256 else 2
    strings = [s if s.isascii() and len(s) <= MAX_TEXT else utf8_of(s).decode() for s in value.values]
    return ["dict", width, value.codes.astype(f"<u{width}").tobytes(), strings]


def _pack_text(column: Column, value: Text) -> list[Any]:
    lengths, data = _fit(column, value.lengths, "<u4"), _fit(column, value.data, "u1")
    if int(lengths.sum(dtype=np.int64)) != len(data) or (len(lengths) and int(lengths.max()) > MAX_TEXT):
        raise LocalError(f"column {column.name}: lengths do not fit {len(data)} bytes, or one is above {MAX_TEXT}")
    if not _is_utf8(lengths, data):
        raise LocalError(f"column {column.name}: a string is not UTF-8")
    return ["text", lengths.tobytes(), data.tobytes()]


def _pack_list(column: Column, value: Lists) -> list[Any]:
    lengths, items = _fit(column, value.lengths, "u1"), _fit(column, value.values, LIST_ITEM[column.wire])
    if int(lengths.sum(dtype=np.int64)) != len(items):
        raise LocalError(f"column {column.name}: lengths do not fit {len(items)} values")
    return ["list", lengths.tobytes(), items.tobytes()]


def _pack_counts(column: Column, value: Texts | Maps) -> bytes:
    counts = _fit(column, value.counts, "u1")
    items = items_of(value)
    if int(counts.sum(dtype=np.int64)) != items:
        raise LocalError(f"column {column.name}: counts do not fit {items} strings")
    if items > MAX_ITEMS:
        raise LocalError(f"column {column.name}: {items} strings, the limit is {MAX_ITEMS}")
    return counts.tobytes()


def _pack_texts(column: Column, value: Texts) -> list[Any]:
    return ["texts", _pack_counts(column, value), *_pack_text(column, value.strings)[1:]]


def _pack_map(column: Column, value: Maps) -> list[Any]:
    if len(value.keys) != len(value.values):
        raise LocalError(f"column {column.name}: {len(value.keys)} keys and {len(value.values)} values")
    counts = _pack_counts(column, value)
    return ["map", counts, *_pack_dict(column, value.keys)[1:], *_pack_text(column, value.values)[1:]]


def pack_column(column: Column, value: ColumnValue) -> list[Any]:
    """One column as its wire list. Raises LocalError where the value has not the column's shape or range."""
    if isinstance(value, Dict) and column.wire == "dict":
        return _pack_dict(column, value)
    if isinstance(value, Text) and column.wire == "text":
        return _pack_text(column, value)
    if isinstance(value, Lists) and column.wire in LIST_ITEM:
        return _pack_list(column, value)
    if isinstance(value, Texts) and column.wire == "list_text":
        return _pack_texts(column, value)
    if isinstance(value, Maps) and column.wire == "map":
        return _pack_map(column, value)
    if isinstance(value, np.ndarray) and column.wire == "addr" and value.shape == (len(value), 16):
        return _pack_addresses(column, value)
    if isinstance(value, np.ndarray) and column.wire in NUMPY and value.ndim == 1:
        return _pack_integers(column, value)
    raise LocalError(f"column {column.name} ({column.wire}) cannot hold this {type(value).__name__}")


def pack_columns(table: Table, columns: Columns) -> dict[str, list[Any]]:
    """The columns of a table as the map that goes into a batch; those that are empty in every row are left out.

    Raises LocalError where one is missing, where they differ in rows, or where one cannot hold its value.
    """
    missing = [c.name for c in table.columns if c.name not in columns]
    rows = {len(columns[c.name]) for c in table.columns if c.name in columns}
    if missing or len(rows) != 1:
        raise LocalError(f"table {table.name}: columns {missing} are missing, rows are {sorted(rows)}")
    sent = [column for column in table.columns if not _all_empty(columns[column.name])]
    packed = {column.name: pack_column(column, columns[column.name]) for column in sent}
    return {name: wire for name, wire in packed.items() if wire[0] != "const" or any(wire[1])}


def _all_empty(value: ColumnValue) -> bool:
    """Whether no row of a column holds anything; said of strings and ragged columns only."""
    if isinstance(value, Dict):
        return value.values == ("",) and not value.codes.any()
    if isinstance(value, np.ndarray) or items_of(value):
        return False
    return not (value.counts if isinstance(value, Texts | Maps) else value.lengths).any()


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
    return stretch(_unpack_raw(column, parts, 1), rows)


def _width(column: Column, width: object, widths: tuple[int, ...]) -> int:
    if type(width) is not int or width not in widths:  # True and 1.0 are equal to 1 and no widths
        raise WrongBatch("bad_column", f"{column.name}: a width is none of {widths}")
    return width


def _unpack_delta(column: Column, parts: Sequence[Any], rows: int) -> Array:
    first, width, payload = parts
    width = _width(column, width, (1, 2, 4))
    if rows < 1:
        raise WrongBatch("bad_column", f"{column.name}: delta over no rows")
    start = np.frombuffer(_bytes(column, first, 8), dtype="<i8")
    steps = np.frombuffer(_bytes(column, payload, (rows - 1) * width), dtype=f"<i{width}")
    out = np.empty(rows, dtype="<i8")
    out[0], out[1:] = start[0], steps
    np.cumsum(out, out=out)
    out.flags.writeable = False
    return out.view(NUMPY[column.wire])


def _unpack_dict(column: Column, parts: Sequence[Any], rows: int) -> Dict:
    width, payload, values = parts
    width = _width(column, width, (1, 2))
    if not isinstance(values, list) or len(values) > MAX_DICT:
        raise WrongBatch("bad_column", f"{column.name}: not a list of at most {MAX_DICT} strings")
    for value in values:
        _check_string(column, value)
    codes = np.frombuffer(_bytes(column, payload, rows * width), dtype=f"<u{width}").astype("<u4")
    if rows and (not values or int(codes.max()) >= len(values)):
        raise WrongBatch("bad_column", f"{column.name}: a code beyond the {len(values)} strings")
    codes.flags.writeable = False
    return Dict(codes, tuple(values))


def _check_string(column: Column, value: object) -> None:
    if not isinstance(value, str):
        raise WrongBatch("bad_utf8", f"{column.name}: a {type(value).__name__} where a string belongs")
    if len(value) > MAX_TEXT or (not value.isascii() and len(value.encode("utf-8", "replace")) > MAX_TEXT):
        raise WrongBatch("too_large", f"{column.name}: a string of more than {MAX_TEXT} bytes")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise WrongBatch("bad_utf8", f"{column.name}: a string is not UTF-8") from None


def _unpack_text(column: Column, parts: Sequence[Any], rows: int) -> Text:
    sizes, payload = parts
    lengths = np.frombuffer(_bytes(column, sizes, rows * 4), dtype="<u4")
    if rows and int(lengths.max()) > MAX_TEXT:
        raise WrongBatch("too_large", f"{column.name}: a string of {int(lengths.max())} bytes")
    data = np.frombuffer(_bytes(column, payload, int(lengths.sum(dtype=np.int64))), dtype=np.uint8)
    if not _is_utf8(lengths, data):
        raise WrongBatch("bad_utf8", f"{column.name}: a string is not UTF-8")
    return Text(lengths, data)


def _is_utf8(lengths: Array, data: Array) -> bool:
    """Whether every string by itself is UTF-8: the whole is, and none begins inside a character."""
    if not data.size or int(data.max()) < 0x80:
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(data), _UTF8_STEP):  # in pieces: a str may take four times the bytes
            decoder.decode(data[at : at + _UTF8_STEP].tobytes())
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    starts = starts_of(lengths)[:-1][lengths > 0]
    return not bool(((data[starts] & 0xC0) == 0x80).any())


def _unpack_list(column: Column, parts: Sequence[Any], rows: int) -> Lists:
    sizes, payload = parts
    lengths = np.frombuffer(_bytes(column, sizes, rows), dtype="u1")
    dtype = np.dtype(LIST_ITEM[column.wire])
    total = int(lengths.sum(dtype=np.int64)) * dtype.itemsize
    return Lists(lengths, np.frombuffer(_bytes(column, payload, total), dtype=dtype))


def _unpack_counts(column: Column, payload: object, rows: int) -> tuple[Array, int]:
    counts = np.frombuffer(_bytes(column, payload, rows), dtype="u1")
    items = int(counts.sum(dtype=np.int64))
    if items > MAX_ITEMS:
        raise WrongBatch("too_large", f"{column.name}: {items} strings, the limit is {MAX_ITEMS}")
    return counts, items


def _unpack_texts(column: Column, parts: Sequence[Any], rows: int) -> Texts:
    counts, items = _unpack_counts(column, parts[0], rows)
    return Texts(counts, _unpack_text(column, parts[1:], items))


def _unpack_map(column: Column, parts: Sequence[Any], rows: int) -> Maps:
    counts, items = _unpack_counts(column, parts[0], rows)
    return Maps(counts, _unpack_dict(column, parts[1:4], items), _unpack_text(column, parts[4:], items))


_PLAIN: dict[str, tuple[int, Any]] = {"raw": (1, _unpack_raw), "const": (1, _unpack_const)}
_ENCODINGS: dict[str, dict[str, tuple[int, Any]]] = {
    **dict.fromkeys(("u1", "u2", "u4", "addr"), _PLAIN),
    **{wire: {**_PLAIN, "delta": (3, _unpack_delta)} for wire in ("u8", "i8")},
    "dict": {"dict": (3, _unpack_dict)},
    "text": {"text": (2, _unpack_text)},
    **{wire: {"list": (2, _unpack_list)} for wire in LIST_ITEM},
    "list_text": {"texts": (3, _unpack_texts)},
    "map": {"map": (6, _unpack_map)},
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
    """A batch's columns, read-only, and how many unknown ones were dropped; a column that is absent is empty.

    Raises WrongBatch where a known column lies.
    """
    columns = {
        c.name: unpack_column(c, packed[c.name], rows) if c.name in packed else absent(c, rows) for c in table.columns
    }
    return columns, sum(name not in columns for name in packed)
