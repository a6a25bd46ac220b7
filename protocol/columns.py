"""Columns in memory: one class per shape of value, and what can be done with rows of them.

In memory a table's rows are a `Columns`: a dict from column name to a value whose shape follows the column's `wire`:

    u1 u2 u4 u8 i8    numpy array of that type, shape (rows,)
    addr              numpy uint8, shape (rows, 16), network order
    dict              `Dict`: codes (rows,) uint32 and the tuple of strings they index
    text              `Text`: lengths (rows,) uint32 and the bytes one after the other, UTF-8
    list_u2 list_u4   `Lists`: lengths (rows,) uint8 and the values one after the other
    list_text         `Texts`: counts (rows,) uint8 and the strings one after the other, a `Text`
    map               `Maps`: counts (rows,) uint8, and the keys (a `Dict`) and values (a `Text`) one after the other

Their bytes are `protocol.packing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.errors import LocalError
from protocol.schema import TABLES, Column

Array: TypeAlias = NDArray[Any]

NUMPY = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "u8": "<u8", "i8": "<i8"}
LIST_ITEM = {"list_u2": "<u2", "list_u4": "<u4"}
MAX_TEXT = 4096
"""Longest string of a text column, bytes."""
MAX_DICT = 65536
"""Most distinct strings of a dict column in one batch."""
MAX_COUNT = 255
"""Most items of a row in a column that can hold several."""
MAX_ITEMS = 1 << 20
"""Most strings of a list_text column, and most pairs of a map column, in one batch."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Several strings a row: `counts` (rows,) uint8, `strings` of their sum."""

    counts: Array
    strings: Text

    def __len__(self) -> int:
        return len(self.counts)


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """A string map a row: `counts` (rows,) uint8, `keys` and `values` of their sum."""

    counts: Array
    keys: Dict
    values: Text

    def __len__(self) -> int:
        return len(self.counts)


ColumnValue: TypeAlias = "Array | Dict | Text | Lists | Texts | Maps"
Columns: TypeAlias = "dict[str, ColumnValue]"


def utf8_of(string: str) -> bytes:
    """A string in UTF-8, cut to MAX_TEXT bytes at a character boundary."""
    data = string.encode("utf-8", "replace")  # a lone surrogate, as in a name the system gave us, becomes "?"
    return data if len(data) <= MAX_TEXT else data[:MAX_TEXT].decode("utf-8", "ignore").encode()


def text_of(strings: Sequence[str]) -> Text:
    """A `Text` of Python strings; each is cut to MAX_TEXT bytes at a character boundary."""
    whole = "".join(strings)
    if whole.isascii():  # as most are, and then ten times faster
        sizes = np.fromiter(map(len, strings), dtype="<u4", count=len(strings))
    else:
        bytes_of = (len(s) if s.isascii() else len(s.encode("utf-8", "replace")) for s in strings)
        sizes = np.fromiter(bytes_of, dtype="<u4", count=len(strings))
    if not len(sizes) or int(sizes.max()) <= MAX_TEXT:
        return Text(sizes, np.frombuffer(whole.encode("utf-8", "replace"), dtype=np.uint8))
    parts = [utf8_of(s) for s in strings]
    lengths = np.fromiter((len(p) for p in parts), dtype="<u4", count=len(parts))
    return Text(lengths, np.frombuffer(b"".join(parts), dtype=np.uint8))


def texts_of(rows: Sequence[Sequence[str]]) -> Texts:
    """A `Texts` of Python strings; 255 of a row at most, each cut as `text_of` does."""
    counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    if len(rows) and int(counts.max()) > MAX_COUNT:
        return texts_of([row[:MAX_COUNT] for row in rows])
    return Texts(counts.astype("u1"), text_of(list(chain.from_iterable(rows))))


def maps_of(rows: Sequence[Mapping[str, str]]) -> Maps:
    """A `Maps` of Python dicts; 255 pairs of a row at most, each value cut as `text_of` does."""
    index: dict[str, int] = {}
    pairs = [pair for row in rows for pair in list(row.items())[:MAX_COUNT]]
    codes = np.fromiter((index.setdefault(key, len(index)) for key, _ in pairs), dtype="<u4", count=len(pairs))
    counts = np.fromiter((min(len(row), MAX_COUNT) for row in rows), dtype="u1", count=len(rows))
    return Maps(counts, Dict(codes, tuple(index)), text_of([value for _, value in pairs]))


def _no_text(rows: int = 0) -> Text:
    return Text(np.zeros(rows, dtype="<u4"), np.zeros(0, dtype=np.uint8))


def empty(column: Column, rows: int) -> ColumnValue:
    """The value of a column that means nothing in any row: zeros, empty strings, empty lists and maps."""
    if column.wire == "addr":
        return np.zeros((rows, 16), dtype=np.uint8)
    if column.wire == "dict":
        return Dict(np.zeros(rows, dtype="<u4"), ("",))
    if column.wire == "text":
        return _no_text(rows)
    if column.wire in LIST_ITEM:
        return Lists(np.zeros(rows, dtype="u1"), np.zeros(0, dtype=LIST_ITEM[column.wire]))
    if column.wire == "list_text":
        return Texts(np.zeros(rows, dtype="u1"), _no_text())
    if column.wire == "map":
        return Maps(np.zeros(rows, dtype="u1"), Dict(np.zeros(0, dtype="<u4"), ()), _no_text())
    return np.zeros(rows, dtype=NUMPY[column.wire])


def stretch(one: Array, rows: int) -> Array:
    """The single row of `one` repeated, as a read-only view: as `numpy.broadcast_to`, in half the time."""
    view: Array = np.ndarray((rows, *one.shape[1:]), one.dtype, one, 0, (0, *one.strides[1:]))
    view.flags.writeable = False
    return view


_ENDLESS = 1 << 32
"""Rows of what `absent` gives views of: to make it takes longer than anything else in a small batch."""


@cache
def _nothing(column: Column) -> ColumnValue:
    one = empty(column, 1)
    if isinstance(one, Dict):
        return Dict(stretch(one.codes, _ENDLESS), one.values)
    if isinstance(one, Text):
        return Text(stretch(one.lengths, _ENDLESS), one.data)
    if isinstance(one, Lists):
        return Lists(stretch(one.lengths, _ENDLESS), one.values)
    if isinstance(one, Texts):
        return Texts(stretch(one.counts, _ENDLESS), one.strings)
    if isinstance(one, Maps):
        return Maps(stretch(one.counts, _ENDLESS), one.keys, one.values)
    return stretch(one, _ENDLESS)


def absent(column: Column, rows: int) -> ColumnValue:
    """As `empty`, read-only and in no memory."""
    whole = _nothing(column)
    if isinstance(whole, Dict):
        return Dict(whole.codes[:rows], whole.values)
    if isinstance(whole, Text):
        return Text(whole.lengths[:rows], whole.data)
    if isinstance(whole, Lists):
        return Lists(whole.lengths[:rows], whole.values)
    if isinstance(whole, Texts):
        return Texts(whole.counts[:rows], whole.strings)
    if isinstance(whole, Maps):
        return Maps(whole.counts[:rows], whole.keys, whole.values)
    return whole[:rows]


@lru_cache(maxsize=256)
def nothing(table: str, rows: int) -> MappingProxyType[str, ColumnValue]:
    """All columns of a table, absent, 6 KB of them. Those of one shape share a value, mostly with other batches of as
    many rows; what is the same need not be looked at."""
    shapes = {column.wire: column for column in TABLES[table].columns}
    values = {wire: absent(column, rows) for wire, column in shapes.items()}
    return MappingProxyType({column.name: values[column.wire] for column in TABLES[table].columns})


def items_of(value: ColumnValue) -> int:
    """How much a ragged column holds beside its lengths: bytes of text, items, strings, pairs. Rows of any other."""
    if isinstance(value, Text):
        return len(value.data)
    if isinstance(value, Lists):
        return len(value.values)
    if isinstance(value, Texts):
        return len(value.strings)
    return len(value.values) if isinstance(value, Maps) else len(value)


def starts_of(lengths: Array) -> Array:
    """Where each of ragged values begins, and behind the last where all end: shape (rows + 1,)."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _items(lengths: Array, index: Array) -> tuple[Array, Array]:
    """Rows `index` of something ragged: their lengths, and where their items are."""
    taken = lengths[index]
    total = int(taken.sum(dtype=np.int64))
    if total == 0:
        return taken, np.zeros(0, dtype=np.int64)
    shift = np.repeat(starts_of(lengths)[:-1][index] - starts_of(taken)[:-1], taken)
    return taken, np.arange(total) + shift


def ragged_take(lengths: Array, values: Array, index: Array) -> tuple[Array, Array]:
    """Rows `index` of ragged `values`: their lengths and their values, one after the other."""
    taken, items = _items(lengths, index)
    return taken, values[items]


def take(value: ColumnValue, index: Array) -> ColumnValue:
    """The rows `index` (integers) of a column."""
    if isinstance(value, Dict):
        return Dict(value.codes[index], value.values)
    if isinstance(value, Text):
        return Text(*ragged_take(value.lengths, value.data, index))
    if isinstance(value, Lists):
        return Lists(*ragged_take(value.lengths, value.values, index))
    if isinstance(value, Texts | Maps):
        counts, items = _items(value.counts, index)
        return _with_items(value, counts, lambda part: take(part, items))
    return value[index]


def _with_items(value: Texts | Maps, counts: Array, chosen: Callable[[ColumnValue], Any]) -> Texts | Maps:
    if isinstance(value, Texts):
        return Texts(counts, chosen(value.strings))
    return Maps(counts, chosen(value.keys), chosen(value.values))


def cut(value: ColumnValue, start: int, stop: int) -> ColumnValue:
    """The rows `start:stop` of a column, bounds as a slice has them, without copying."""
    start, stop, _ = slice(start, stop).indices(len(value))
    if isinstance(value, Dict):
        return Dict(value.codes[start:stop], value.values)
    if isinstance(value, Text):
        first, last = _edges(value.lengths, len(value.data), start, stop)
        return Text(value.lengths[start:stop], value.data[first:last])
    if isinstance(value, Lists):
        first, last = _edges(value.lengths, len(value.values), start, stop)
        return Lists(value.lengths[start:stop], value.values[first:last])
    if isinstance(value, Texts | Maps):
        first, last = _edges(value.counts, items_of(value), start, stop)
        return _with_items(value, value.counts[start:stop], lambda part: cut(part, first, last))
    return value[start:stop]


def _edges(lengths: Array, total: int, start: int, stop: int) -> tuple[int, int]:
    """Where the items of the rows `start:stop` begin and end."""
    if total == 0:
        return 0, 0
    first = int(lengths[:start].sum(dtype=np.int64))
    return first, first + int(lengths[start:stop].sum(dtype=np.int64))


def is_stretched(array: Array) -> bool:
    """Whether all rows are one and the same in memory, as `stretch` makes them."""
    return array.strides[0] == 0 and len(array) > 0


def _concatenate(parts: Sequence[Array]) -> Array:
    """Arrays one after the other; nothing is copied where all are the same row stretched."""
    first = parts[0]
    if not is_stretched(first):
        return np.concatenate(parts)
    base, rows = first.base, sum(map(len, parts))
    if isinstance(base, np.ndarray) and base.nbytes == first[:1].nbytes and len({id(part.base) for part in parts}) == 1:
        return stretch(first[:1], rows)
    one = first[:1].tobytes()
    if all(is_stretched(part) and part.dtype == first.dtype and part[:1].tobytes() == one for part in parts):
        return stretch(first[:1], rows)
    return np.concatenate(parts)


def join(values: Sequence[ColumnValue]) -> ColumnValue:
    """Several pieces of one column, at least one, one after the other. Raises LocalError where they differ in kind."""
    first = values[0]
    if len(values) == 1:
        return first
    if len(kinds := set(map(type, values))) > 1:
        raise LocalError(f"columns of different kinds: {sorted(kind.__name__ for kind in kinds)}")
    parts: Sequence[Any] = values
    if isinstance(first, Dict):
        return _join_dicts(parts)
    if isinstance(first, Text):
        return _join_texts(parts)
    if isinstance(first, Lists):
        return Lists(_concatenate([part.lengths for part in parts]), _concatenate([part.values for part in parts]))
    if isinstance(first, Texts | Maps):
        counts = _concatenate([part.counts for part in parts])
        if isinstance(first, Texts):
            return Texts(counts, _join_texts([part.strings for part in parts]))
        return Maps(counts, _join_dicts([part.keys for part in parts]), _join_texts([part.values for part in parts]))
    return _concatenate(parts)


def _join_texts(parts: Sequence[Text]) -> Text:
    return Text(_concatenate([part.lengths for part in parts]), _concatenate([part.data for part in parts]))


def _join_dicts(parts: Sequence[Dict]) -> Dict:
    if all(part.values == parts[0].values for part in parts):
        return Dict(_concatenate([part.codes for part in parts]), parts[0].values)
    index: dict[str, int] = {}
    codes = []
    for part in parts:
        new = np.array([index.setdefault(value, len(index)) for value in part.values], dtype="<u4")
        codes.append(new[part.codes] if len(new) else part.codes)
    return Dict(_concatenate(codes), tuple(index))
