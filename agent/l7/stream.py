"""What parsers of message streams share: passing over bytes that nobody needs to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from agent.l7 import Conn, Heads

Mask = NDArray[np.bool_]


class Passing:
    """How many bytes of each side still belong to a message whose beginning was read.

    Bodies are passed over, never kept. A side is either passing over bytes or has some pending, not both.
    """

    __slots__ = ("skip",)

    def __init__(self) -> None:
        self.skip = [0, 0]

    def take(self, conn: Conn, side: int, payload: bytes) -> bytes:
        """The payload behind what is passed over, with what is pending before it; b"" where nothing is left."""
        left = self.skip[side]
        if not left:
            return conn.join(side, payload)
        self.skip[side] = max(0, left - len(payload))
        return payload[left:]

    def leave(self, conn: Conn, side: int, data: bytes, at: int) -> None:
        """`data` was read up to `at`: a message goes on behind the data, or one at `at` is not whole yet."""
        if at > len(data):
            self.skip[side] = at - len(data)
        elif at < len(data):
            conn.keep(side, data[at:])

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut: whatever comes next begins anew."""
        self.skip[side] = 0
        conn.pending[side].clear()


def among(heads: Heads, candidates: Mask, closer: Callable[[Heads], Mask]) -> Mask:
    """Where `closer` says yes, asked only for the candidates: most payloads are ruled out by a byte. Shape (n,)."""
    claimed = np.zeros(len(heads.length), dtype=bool)
    rows = np.flatnonzero(candidates)
    if len(rows):
        claimed[rows] = closer(heads.part(rows))
    return claimed


def found_in(known: NDArray[np.uint64], words: NDArray[np.uint64]) -> Mask:
    """Where words are among `known`, which is sorted. Shape of `words`. np.isin takes many times as long."""
    found: Mask = known[np.searchsorted(known[:-1], words)] == words
    return found


def table_of(values: Iterable[int]) -> Mask:
    """Which bytes are among these: shape (256,)."""
    table = np.zeros(256, dtype=np.bool_)
    table[list(values)] = True
    return table


def listed(words: list[str], most: int = 8, separator: str = " ") -> str:
    """The words as one short line for people."""
    return separator.join(words if len(words) <= most else [*words[:most], "..."])


def remember(table: dict, key: object, value: object, most: int) -> None:  # type: ignore[type-arg]
    """Put an entry into a bounded table; the oldest goes."""
    if len(table) >= most and key not in table:
        del table[next(iter(table))]
    table[key] = value
