"""The order of rows of several hubs, as each hub has it (`hub.query.order`): what has no value comes last. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import merge
from ipaddress import ip_address
from typing import Any, TypeAlias

from protocol.schema import WRAP_NS, fields_of

Row: TypeAlias = "Mapping[str, Any]"
Key: TypeAlias = "tuple[Any, ...]"

ORDER = {
    "packets": ("frame.time_epoch", "nodetap.agent", "nodetap.epoch", "frame.number"),
    "flows": ("flow.start", "nodetap.agent", "nodetap.epoch"),
    "calls": ("call.start", "nodetap.agent", "nodetap.epoch"),
}
"""What decides between rows of different hubs; `hub.query.select.ORDER` by public names."""
BLOCK = 512
"""Rows that are handed on together."""
_MAPPED = bytes(10) + b"\xff\xff"


class Down:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Down) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Down) and bool(other.value == self.value)

    __hash__ = None  # type: ignore[assignment]


def _nanoseconds(text: str) -> int:
    """Seconds with nine decimals as stored: what does not fit an int64 is kept as a negative number."""
    value = int(text.replace(".", ""))
    return value - WRAP_NS if value >= 1 << 63 else value


@lru_cache(1 << 16)
def _address(text: str) -> bytes:
    packed = ip_address(text).packed
    return packed if len(packed) == 16 else _MAPPED + packed


_STORED: dict[str, Callable[[Any], Any]] = {"time": _nanoseconds, "ip": _address}
"""How a value of a kind compares, where it is not as it is printed."""


@dataclass(frozen=True, slots=True)
class Order:
    """Names, each with whether the largest comes first, and how its values compare."""

    parts: tuple[tuple[str, bool, Callable[[Any], Any] | None], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that are looked at."""
        return tuple(name for name, _, _ in self.parts)

    def key(self, row: Row) -> Key:
        """What a row sorts by."""
        return tuple(_key(row.get(name), descending, stored) for name, descending, stored in self.parts)


def _key(value: Any, descending: bool, stored: Callable[[Any], Any] | None) -> Key:
    if value is None:
        return (True,)
    compared = stored(value) if stored else value
    return (False, Down(compared) if descending else compared)


def read(text: str | None) -> list[tuple[str, bool]]:
    """`A:desc,B` as names and directions; what is no order is the hubs' to refuse."""
    parts = [part.strip().partition(":") for part in (text or "").split(",") if part.strip()]
    return [(name, direction == "desc") for name, _, direction in parts]


def order(table: str, by: Iterable[tuple[str, bool]], rest: Iterable[str]) -> Order:
    """An order of a table's fields and of figures; `rest` decides between equals."""
    known = fields_of(table)
    kinds = {name: field.kind for name, field in known.items()}
    every = [*by, *((name, False) for name in rest)]
    return Order(tuple((name, down, _STORED.get(kinds.get(name, ""))) for name, down in every))


def lines(blocks: Iterable[bytes], by: Order, hidden: Sequence[str]) -> Iterator[tuple[Key, bytes]]:
    """The lines of one hub's answer with what they sort by, and without the fields that nobody asked for."""
    for block in blocks:
        for line in block.splitlines(keepends=True):
            row = json.loads(line)
            yield by.key(row), _without(row, hidden) if hidden else line


def _without(row: dict[str, Any], hidden: Iterable[str]) -> bytes:
    for name in hidden:
        row.pop(name, None)
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def merged(streams: Iterable[Iterable[tuple[Key, bytes]]]) -> Iterator[bytes]:
    """The lines of several answers, each in order, in one order. A line of each waits, no more."""
    for _, line in merge(*streams, key=lambda found: found[0]):
        yield line


def blocks(found: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, some at a time."""
    kept: list[bytes] = []
    for line in found:
        kept.append(line)
        if len(kept) >= BLOCK:
            yield b"".join(kept)
            kept = []
    if kept:
        yield b"".join(kept)
