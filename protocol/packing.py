"""Columns as bytes.

On the wire a column is one array (integers and addresses), or a list of arrays and bytes:

    ["dict", array, [str]]            codes, and the strings they index
    ["text", array, bytes]            lengths, and the strings one after the other
    ["list", array, array]            lengths, and the values one after the other
    ["texts", array, array, bytes]    counts, then the strings as in text
    ["map", array, array, [str], array, bytes]
                                      counts, then the keys as in dict and the values as in text

How an array looks is said in `protocol.arrays`. A column that is zero or empty in every row is not sent. The groups of
a batch, where it has them, stand beside the columns under the name `*`: an array of one number a row.

Decoding checks everything it takes: a payload that does not fit the row count raises `WrongBatch`. A column of one
value a row takes at most its own width in every row, however few bytes it came in (a `const` one and one that was not
sent take none: they are broadcast views), beside 32 bytes a row while it is read, and the groups 32 for the batch; one
of several values a row holds a byte for each, and takes at most eight times what the payload holds. So all columns of
one value a row together are bounded by `MAX_ROWS`. What is decoded is read-only. Encoding never
changes a value: what does not fit raises `LocalError`.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protocol.arrays import Shape, Way, pack_array, pack_items, unpack_array
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
    is_stretched,
    items_of,
    nothing,
    starts_of,
    utf8_of,
)
from protocol.errors import LocalError, WrongBatch
from protocol.groups import Groups, groups_of
from protocol.schema import Column, Table

GROUPS = "*"
"""Where the groups of a batch stand among its columns."""
WAYS = {
    "frame_number": Way(steps=True, sort=False),
    "time": Way(steps=True, time=True, sort=False),
    "start": Way(steps=True, time=True, sort=False),
    "end": Way(plus=("start",), time=True, sort=False),
    "latency": Way(plus=("end",), minus=("start",), sort=False),
    "layers": Way(planes=True),
    "len": Way(planes=True),
    "cap_len": Way(plus=("len",)),
    "ip_len": Way(plus=("len",)),
    "tcp_len": Way(plus=("ip_len",)),
    "ip_id": Way(planes=True),
    "tcp_seq": Way(steps=True),
    "tcp_ack": Way(steps=True),
    "tcp_flags": Way(planes=True),
}
"""How columns are sent that are not sent as all others are: what was smallest over real traffic."""
_LENGTHS = Way(planes=True)
_UTF8_STEP = 1 << 20


@dataclass(slots=True)
class _Rows:
    """What the columns of one batch share: its rows, its groups, and the integer columns that came before."""

    rows: int
    groups: Groups | None = None
    near: dict[str, Array] = field(default_factory=dict)


# -- to the wire ---------------------------------------------------------------------------------------------------


def _fit(column: Column, array: Array, dtype: str) -> Array:
    """`array` as contiguous `dtype`; LocalError where that would change a value."""
    if array.dtype != dtype and array.size:
        info = np.iinfo(dtype)
        if array.dtype.kind not in "iub" or int(array.min()) < info.min or int(array.max()) > info.max:
            raise LocalError(f"column {column.name}: {array.dtype} values do not fit {dtype}")
    return np.ascontiguousarray(array, dtype=dtype)


def _pack_integers(column: Column, value: Array, batch: _Rows) -> list[Any]:
    array = _fit(column, value, NUMPY[column.wire]).view(NUMPY[column.wire].replace("i", "u"))
    batch.near[column.name] = array
    return pack_array(array, WAYS.get(column.name, Way()), batch.groups, batch.near)


def _pack_addresses(column: Column, value: Array, batch: _Rows) -> list[Any]:
    return pack_array(_fit(column, value, "u1"), Way(), batch.groups, {})


def _codes(column: Column, value: Dict) -> tuple[Array, list[str]]:
    size = len(value.values)
    if size > MAX_DICT:
        raise LocalError(f"column {column.name}: {size} distinct strings, the limit is {MAX_DICT}")
    if len(value.codes) and not 0 <= int(value.codes.min()) <= int(value.codes.max()) < size:
        raise LocalError(f"column {column.name}: a code beyond the {size} strings")
    strings = [s if s.isascii() and len(s) <= MAX_TEXT else utf8_of(s).decode() for s in value.values]
    return value.codes.astype("<u1" if size <= 256 else "<u2"), strings


def _pack_dict(column: Column, value: Dict, batch: _Rows) -> list[Any]:
    codes, strings = _codes(column, value)
    return ["dict", pack_array(codes.astype("<u4"), Way(), batch.groups, {}), strings]


def _lengths(column: Column, value: Text) -> tuple[Array, bytes]:
    lengths, data = _fit(column, value.lengths, "<u4"), _fit(column, value.data, "u1")
    if int(lengths.sum(dtype=np.int64)) != len(data) or (len(lengths) and int(lengths.max()) > MAX_TEXT):
        raise LocalError(f"column {column.name}: lengths do not fit {len(data)} bytes, or one is above {MAX_TEXT}")
    if not _is_utf8(lengths, data):
        raise LocalError(f"column {column.name}: a string is not UTF-8")
    return lengths, data.tobytes()


def _pack_text(column: Column, value: Text, batch: _Rows) -> list[Any]:
    lengths, data = _lengths(column, value)
    return ["text", pack_array(lengths, _LENGTHS, batch.groups, {}), data]


def _pack_list(column: Column, value: Lists, batch: _Rows) -> list[Any]:
    lengths, items = _fit(column, value.lengths, "u1"), _fit(column, value.values, LIST_ITEM[column.wire])
    if int(lengths.sum(dtype=np.int64)) != len(items):
        raise LocalError(f"column {column.name}: lengths do not fit {len(items)} values")
    return ["list", pack_array(lengths, Way(), None, {}), pack_items(items)]


def _pack_counts(column: Column, value: Texts | Maps, batch: _Rows) -> list[Any]:
    counts = _fit(column, value.counts, "u1")
    items = items_of(value)
    if int(counts.sum(dtype=np.int64)) != items:
        raise LocalError(f"column {column.name}: counts do not fit {items} strings")
    if items > MAX_ITEMS:
        raise LocalError(f"column {column.name}: {items} strings, the limit is {MAX_ITEMS}")
    return pack_array(counts, Way(), None, {})


def _pack_texts(column: Column, value: Texts, batch: _Rows) -> list[Any]:
    lengths, data = _lengths(column, value.strings)
    return ["texts", _pack_counts(column, value, batch), pack_items(lengths, planes=True), data]


def _pack_map(column: Column, value: Maps, batch: _Rows) -> list[Any]:
    if len(value.keys) != len(value.values):
        raise LocalError(f"column {column.name}: {len(value.keys)} keys and {len(value.values)} values")
    counts, (codes, keys) = _pack_counts(column, value, batch), _codes(column, value.keys)
    lengths, data = _lengths(column, value.values)
    return ["map", counts, pack_items(codes), keys, pack_items(lengths, planes=True), data]


def _packer(column: Column, value: ColumnValue) -> Any:
    """What packs this value of this column. Raises LocalError where its kind or shape is not the column's."""
    kind, pack = _PACKERS.get(column.wire, (np.ndarray, _pack_integers))
    shape = (len(value), 16) if column.wire == "addr" else (len(value),)
    if not isinstance(value, kind) or (isinstance(value, np.ndarray) and value.shape != shape):
        raise LocalError(f"column {column.name} ({column.wire}) cannot hold this {type(value).__name__}")
    return pack


_PACKERS: dict[str, tuple[type, Any]] = {
    "addr": (np.ndarray, _pack_addresses),
    "dict": (Dict, _pack_dict),
    "text": (Text, _pack_text),
    **dict.fromkeys(LIST_ITEM, (Lists, _pack_list)),
    "list_text": (Texts, _pack_texts),
    "map": (Maps, _pack_map),
}


def pack_column(column: Column, value: ColumnValue) -> list[Any]:
    """One column as its wire list, without groups or other columns.

    Raises LocalError where the value has not the column's shape or range.
    """
    packed: list[Any] = _packer(column, value)(column, value, _Rows(len(value)))
    return packed


def pack_columns(table: Table, columns: Columns) -> dict[str, list[Any]]:
    """The columns of a table as the map that goes into a batch; those that are empty in every row are left out.

    Raises LocalError where one is missing, where they differ in rows, or where one cannot hold its value.
    """
    missing = [c.name for c in table.columns if c.name not in columns]
    rows = {len(columns[c.name]) for c in table.columns if c.name in columns}
    if missing or len(rows) != 1:
        raise LocalError(f"table {table.name}: columns {missing} are missing, rows are {sorted(rows)}")
    packers = {c: _packer(c, columns[c.name]) for c in table.columns}
    batch = _Rows(rows.pop(), groups_of(columns))
    packed = {c.name: pack(c, columns[c.name], batch) for c, pack in packers.items() if not _all_empty(columns[c.name])}
    packed = {name: wire for name, wire in packed.items() if wire[0] != "const" or any(wire[1])}
    if batch.groups is not None:
        packed[GROUPS] = pack_array(batch.groups.codes, Way(steps=True), None, {})
    return packed


def _all_empty(value: ColumnValue) -> bool:
    """Whether no row of a column holds anything; said of strings and ragged columns only."""
    if isinstance(value, Dict):
        return value.values == ("",) and not _any(value.codes)
    if isinstance(value, np.ndarray) or items_of(value):
        return False
    return not _any(value.counts if isinstance(value, Texts | Maps) else value.lengths)


def _any(array: Array) -> bool:
    return bool((array[:1] if is_stretched(array) else array).any())


# -- from the wire -------------------------------------------------------------------------------------------------


def _shape(column: Column, dtype: str, batch: _Rows) -> Shape:
    return Shape(column.name, dtype, batch.rows, groups=batch.groups, near=batch.near)


def _items(column: Column, dtype: str, count: int) -> Shape:
    return Shape(column.name, dtype, count, rows=False)


def _closed(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _unpack_integers(column: Column, packed: list[Any], batch: _Rows) -> Array:
    dtype = NUMPY[column.wire]
    return _closed(unpack_array(packed, _shape(column, dtype.replace("i", "u"), batch)).view(dtype))


def _unpack_addresses(column: Column, packed: list[Any], batch: _Rows) -> Array:
    return _closed(unpack_array(packed, replace(_shape(column, "u1", batch), width=16)))


def _unpack_dict(column: Column, parts: list[Any], shape: Shape) -> Dict:
    array, values = parts
    if not isinstance(values, list) or len(values) > MAX_DICT:
        raise WrongBatch("bad_column", f"{column.name}: not a list of at most {MAX_DICT} strings")
    for value in values:
        _check_string(column, value)
    codes = unpack_array(array, shape)
    if len(codes) and (not values or int(codes.max()) >= len(values)):
        raise WrongBatch("bad_column", f"{column.name}: a code beyond the {len(values)} strings")
    return Dict(_closed(codes), tuple(values))


def _check_string(column: Column, value: object) -> None:
    if not isinstance(value, str):
        raise WrongBatch("bad_utf8", f"{column.name}: a {type(value).__name__} where a string belongs")
    if len(value) > MAX_TEXT or (not value.isascii() and len(value.encode("utf-8", "replace")) > MAX_TEXT):
        raise WrongBatch("too_large", f"{column.name}: a string of more than {MAX_TEXT} bytes")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise WrongBatch("bad_utf8", f"{column.name}: a string is not UTF-8") from None


def _unpack_text(column: Column, parts: list[Any], shape: Shape) -> Text:
    array, payload = parts
    lengths = unpack_array(array, shape)
    if len(lengths) and int(lengths.max()) > MAX_TEXT:
        raise WrongBatch("too_large", f"{column.name}: a string of {int(lengths.max())} bytes")
    size = int(lengths.sum(dtype=np.int64))
    if not isinstance(payload, bytes) or len(payload) != size:
        raise WrongBatch("bad_column", f"{column.name}: not the {size} bytes that its lengths say")
    data = np.frombuffer(payload, dtype=np.uint8)
    if not _is_utf8(lengths, data):
        raise WrongBatch("bad_utf8", f"{column.name}: a string is not UTF-8")
    return Text(_closed(lengths), data)


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


def _unpack_list(column: Column, parts: list[Any], batch: _Rows) -> Lists:
    lengths = unpack_array(parts[0], _shape(column, "<u1", batch))
    values = unpack_array(parts[1], _items(column, LIST_ITEM[column.wire], int(lengths.sum(dtype=np.int64))))
    return Lists(_closed(lengths), _closed(values))


def _unpack_counts(column: Column, array: object, batch: _Rows) -> tuple[Array, int]:
    counts = _closed(unpack_array(array, _shape(column, "<u1", batch)))
    items = int(counts.sum(dtype=np.int64))
    if items > MAX_ITEMS:
        raise WrongBatch("too_large", f"{column.name}: {items} strings, the limit is {MAX_ITEMS}")
    return counts, items


def _unpack_texts(column: Column, parts: list[Any], batch: _Rows) -> Texts:
    counts, items = _unpack_counts(column, parts[0], batch)
    return Texts(counts, _unpack_text(column, parts[1:], _items(column, "<u4", items)))


def _unpack_map(column: Column, parts: list[Any], batch: _Rows) -> Maps:
    counts, items = _unpack_counts(column, parts[0], batch)
    shape = _items(column, "<u4", items)
    return Maps(counts, _unpack_dict(column, parts[1:3], shape), _unpack_text(column, parts[3:], shape))


def _by_row(unpack: Any) -> Any:
    return lambda column, parts, batch: unpack(column, parts, _shape(column, "<u4", batch))


_SHAPED: dict[str, tuple[str, int, Any]] = {
    "dict": ("dict", 2, _by_row(_unpack_dict)),
    "text": ("text", 2, _by_row(_unpack_text)),
    **dict.fromkeys(LIST_ITEM, ("list", 2, _unpack_list)),
    "list_text": ("texts", 3, _unpack_texts),
    "map": ("map", 5, _unpack_map),
}
"""Per kind of column that is more than one array: its word on the wire, its parts, who reads them."""


def unpack_column(column: Column, packed: object, rows: int) -> ColumnValue:
    """One column from its wire list, without groups or other columns. Raises WrongBatch where it lies about itself."""
    return _unpack(column, packed, _Rows(rows))


def _unpack(column: Column, packed: object, batch: _Rows) -> ColumnValue:
    if not isinstance(packed, list):
        raise WrongBatch("bad_column", f"{column.name}: not a column")
    if column.wire == "addr":
        return _unpack_addresses(column, packed, batch)
    if column.wire in NUMPY:
        return _unpack_integers(column, packed, batch)
    word, arity, unpack = _SHAPED[column.wire]
    if len(packed) != arity + 1 or packed[0] != word:
        raise WrongBatch("bad_column", f"{column.name}: no {word!r} of {arity} parts")
    value: ColumnValue = unpack(column, packed[1:], batch)
    return value


def _unpack_groups(packed: object, rows: int) -> Groups:
    codes = unpack_array(packed, Shape("groups", "<u4", rows))
    count = int(codes.max(initial=0)) + 1
    if count > max(rows, 1):
        raise WrongBatch("bad_column", f"groups: number {count} of {rows} rows")
    return Groups(codes, count)


def unpack_columns(table: Table, packed: Mapping[str, object], rows: int) -> tuple[Columns, int]:
    """A batch's columns, read-only, and how many unknown ones were dropped; a column that is absent is empty.

    Raises WrongBatch where a known column lies.
    """
    batch = _Rows(rows, _unpack_groups(packed[GROUPS], rows) if GROUPS in packed else None)
    columns: Columns = nothing(table.name, rows).copy()
    for column in table.columns:
        value = columns[column.name]
        if column.name in packed:
            columns[column.name] = value = _unpack(column, packed[column.name], batch)
        if isinstance(value, np.ndarray) and value.ndim == 1:
            batch.near[column.name] = value
    return columns, sum(name not in columns and name != GROUPS for name in packed)
