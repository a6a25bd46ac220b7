"""Finding the records of a capture file: each says how long it is, so the next is known only once this one is.

That is the one thing numpy cannot do. The compiled kernel takes 30 ns a record, most of it for the cache line; where
there is none, unpacking one length after the other takes 110 to 150.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import kernel

Positions = NDArray[np.int64]

ROOM = 32768
"""Records found at once: as many as numpy then looks into with their columns still in the cache."""


@dataclass(frozen=True, slots=True)
class Law:
    """How to get from one record to the next: `place + added + length`, rounded up to `unit`.

    The length lies `length_at` bytes behind the record's start, as `dtype`. `header` bytes must be there to know it,
    and no record is shorter: `added` is `header`, or `unit` is more than 1.
    """

    dtype: str
    length_at: int
    added: int
    header: int
    unit: int


def words(data: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """A view of `data` as integers that begin at every byte: item i is read from byte i on."""
    width = np.dtype(dtype).itemsize
    return np.ndarray((max(0, len(data) - width + 1),), dtype, data, strides=(1,))


def pairs(data: NDArray[np.uint8], dtype: str, places: Positions) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two 32-bit integers, of type `dtype`, that lie one after the other at each place."""
    both = words(data, "=u8")[places].view(dtype)
    return both[0::2], both[1::2]


def find_records(raw: bytes | mmap.mmap, data: NDArray[np.uint8], law: Law, place: int, end: int) -> Positions:
    """The starts of the first records in [place, end), at most ROOM of them, rising. `data` is `raw` as an array.

    `end` is at most len(data) - law.header + 1. Lengths are believed: who calls checks them.
    """
    library = kernel.load()
    if library is None:
        return np.array(_walk(raw, law, place, end), dtype=np.int64)
    starts = np.empty(min(ROOM, max(0, end - place)), dtype=np.int64)
    rule = np.array([law.dtype.startswith(">"), law.length_at, law.added, law.header, law.unit], dtype=np.int64)
    count = library.nodetap_chain(data.ctypes.data, place, end, rule.ctypes.data, starts.ctypes.data, len(starts))
    return starts[:count]


def _walk(raw: bytes | mmap.mmap, law: Law, place: int, end: int) -> list[int]:
    """As `find_records`, one record after the other in Python."""
    unpack = Struct(f"{law.dtype[0]}{law.length_at}xI").unpack_from
    added, header, mask = law.added + law.unit - 1, law.header, -law.unit
    found: list[int] = []
    for _ in range(ROOM):
        if place >= end:
            break
        found.append(place)
        (length,) = unpack(raw, place)
        step = length + added & mask
        place += step if step > header else header
    return found
