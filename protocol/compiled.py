"""The columns of a batch by the compiled kernel (`protocol.kernel`): the same cells as `protocol.packing` gives.

The kernel takes the bodies that agents send. Whatever lies, and what is rare (a column that the schema does not have,
or one that is there twice), it leaves to `protocol.packing`, which decides and says what is wrong. All columns of a
batch lie in one array, each in as many bytes as its values have, rounded up to 16; of a column whose rows are all the
same one value is there. While it is read it takes 16 bytes a row besides.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

import msgpack
import numpy as np

from protocol import built, kernel
from protocol.arrays import ENCODINGS, MAX_BASES, RANK
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
    nothing,
)
from protocol.limits import MAX_DEPTH, MAX_ROWS, MAX_STRING, MAX_STRINGS, MAX_VALUES
from protocol.packing import GROUPS
from protocol.schema import TABLES, Column

_ALIGN = 16
_ROOM = 2
"""Words a row that the kernel works in."""
_FOUND = 9
"""Words of what it finds of a column, in the order of `struct found` in protocol/kernel/unpack.c."""

Found: TypeAlias = "list[int]"


class _Arena:
    """What the kernel wrote for one batch, beside the body that it read."""

    __slots__ = ("memory", "raw", "rows", "views")

    def __init__(self, memory: Array, raw: bytes, rows: int) -> None:
        memory.flags.writeable = False
        self.memory, self.raw, self.rows = memory, raw, rows
        self.views = {dtype: memory.view(dtype) for dtype in NUMPY.values()}
        self.views["addr"] = memory.reshape(-1, 16)

    def items(self, dtype: str, at: int, count: int) -> Array:
        """So many values from one on."""
        return self.views[dtype][at : at + count]

    def per_row(self, dtype: str, at: int) -> Array:
        """A value a row; where all rows have the same, as `protocol.columns.stretch` gives it."""
        if at >= 0:
            return self.views[dtype][at : at + self.rows]
        return np.ndarray((self.rows,), dtype, self.memory, ~at * _ITEMS[dtype], (0,))

    def keys(self, found: Found) -> tuple[str, ...]:
        """The strings of a dictionary. Raises UnicodeDecodeError."""
        keys: tuple[str, ...] = msgpack.unpackb(self.raw[found[7] : found[7] + found[8]], use_list=False)
        return keys

    def text(self, lengths: Array, found: Found) -> Text:
        """Strings of those lengths."""
        return Text(lengths, self.items("<u1", found[5], found[6]))


_ITEMS = {"<u1": 1, "<u2": 2, "<u4": 4, "<u8": 8, "<i8": 8, "addr": 16}
"""Bytes of a value."""


def _integers(arena: _Arena, found: Found, dtype: str) -> Array:
    return arena.per_row(dtype, found[1])


def _addresses(arena: _Arena, found: Found, _: str) -> Array:
    at = found[1]
    if at >= 0:
        return arena.items("addr", at, arena.rows)
    return np.ndarray((arena.rows, 16), "u1", arena.memory, ~at * 16, (0, 1))


def _dict(arena: _Arena, found: Found, _: str) -> Dict:
    return Dict(arena.per_row("<u4", found[1]), arena.keys(found))


def _text(arena: _Arena, found: Found, _: str) -> Text:
    return arena.text(arena.per_row("<u4", found[1]), found)


def _lists(arena: _Arena, found: Found, dtype: str) -> Lists:
    return Lists(arena.per_row("<u1", found[1]), arena.items(dtype, found[3], found[2]))


def _texts(arena: _Arena, found: Found, _: str) -> Texts:
    return Texts(arena.per_row("<u1", found[1]), arena.text(arena.items("<u4", found[4], found[2]), found))


def _map(arena: _Arena, found: Found, _: str) -> Maps:
    keys = Dict(arena.items("<u4", found[3], found[2]), arena.keys(found))
    return Maps(arena.per_row("<u1", found[1]), keys, arena.text(arena.items("<u4", found[4], found[2]), found))


_SHAPES: dict[str, Callable[[_Arena, Found, str], ColumnValue]] = {
    "INTEGER": _integers,
    "ADDRESS": _addresses,
    "DICT": _dict,
    "TEXT": _text,
    "LISTS": _lists,
    "TEXTS": _texts,
    "MAPS": _map,
}
"""What a column holds, numbered as `enum wire`, and what makes it of what the kernel found."""
_WIRES = {
    **{wire: ("INTEGER", dtype) for wire, dtype in NUMPY.items()},
    "addr": ("ADDRESS", "addr"),
    "dict": ("DICT", "<u4"),
    "text": ("TEXT", "<u4"),
    **{wire: ("LISTS", dtype) for wire, dtype in LIST_ITEM.items()},
    "list_text": ("TEXTS", "<u4"),
    "map": ("MAPS", "<u4"),
}


class Layout:
    """A table of the schema as the kernel reads it, and what makes each column's value.

    `words` are the members of `struct table`, `names` and `specs` what its pointers point to.
    """

    def __init__(self, name: str) -> None:
        columns = TABLES[name].columns
        self.name, self.count = name, len(columns)
        self.makers = [(c.name, _SHAPES[_WIRES[c.wire][0]], _WIRES[c.wire][1]) for c in columns]
        self.names = np.frombuffer("".join(c.name for c in columns).encode(), dtype="u1")
        self.specs = np.array(list(_specs(columns)), dtype="<i8")
        survey = (MAX_VALUES, MAX_DEPTH, MAX_STRING, MAX_STRINGS)
        limits = (MAX_ROWS, *survey, MAX_TEXT, MAX_DICT, MAX_ITEMS)
        pointers = (built.address(self.names), built.address(self.specs))
        self.words = np.array([*pointers, self.count, *limits], dtype="<i8")
        self.at = built.address(self.words)


def _specs(columns: tuple[Column, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Per column where its name begins, the name's length, its shape's number, bytes of a value."""
    at, numbers = 0, {shape: number for number, shape in enumerate(_SHAPES)}
    for column in columns:
        shape, dtype = _WIRES[column.wire]
        yield at, len(column.name), numbers[shape], _ITEMS[dtype]
        at += len(column.name)


_layout = cache(Layout)


def load() -> ctypes.CDLL | None:
    """The kernel, where it is there and speaks of the same encodings and shapes."""
    library = kernel.load()
    return library if library is not None and _agrees(library) else None


@cache
def _agrees(library: ctypes.CDLL) -> bool:
    theirs = set(library.nodetap_words().decode().split())
    if wrong := theirs ^ _words():
        built.complain(f"the compiled kernel does not unpack batches: it differs in {', '.join(sorted(wrong))}")
    return not wrong


def _words() -> set[str]:
    encodings = {f"{word}={parts}/{RANK[word]}" for word, (parts, _) in ENCODINGS.items()}
    shapes = {f"{number}.{shape}" for number, shape in enumerate(_SHAPES)}
    return {f"max_bases={MAX_BASES}", f"groups={GROUPS}", *encodings, *shapes}


def unpack(kind: str, raw: bytes, rows: int) -> Columns | None:
    """The columns of a table's batch of so many rows, all known; None where `protocol.packing` has to look at it."""
    library = load()
    if library is None:
        return None
    layout = _layout(kind)
    size = library.nodetap_measure(layout.at, raw, len(raw), rows, None, 0, None)
    if size < 0:
        return None
    memory, room = np.empty(max(size, _ALIGN), dtype="u1"), np.empty(rows * _ROOM + layout.count * _FOUND, dtype="<i8")
    count = library.nodetap_unpack(
        layout.at, raw, len(raw), rows, built.address(memory), len(memory), built.address(room)
    )
    if count < 0:
        return None
    return _columns(layout, room[: count * _FOUND].reshape(-1, _FOUND).tolist(), _Arena(memory, raw, rows))


def _columns(layout: Layout, found: list[Found], arena: _Arena) -> Columns | None:
    columns: Columns = nothing(layout.name, arena.rows).copy()
    try:
        for row in found:
            name, make, dtype = layout.makers[row[0]]
            columns[name] = make(arena, row, dtype)
    except UnicodeDecodeError:
        return None
    return columns
