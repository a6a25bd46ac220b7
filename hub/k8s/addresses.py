"""Numbers for addresses, found for whole columns at once: a hash table in numpy, open addressing, linear probing.

Two 64-bit words an address. Looked up with a handful of gathers per column; added to one at a time, which is how the
cluster changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, its bits in no order: 2**64 over the golden ratio
_MASK = (1 << 64) - 1
_LEAST = 1 << 10
"""Slots of an empty table; there are always at least two for each address."""


class Addresses:
    """Numbers from 1 on for addresses of 16 bytes; 0 is for those that are not in it."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._make(_LEAST)

    def _make(self, slots: int) -> None:
        self._shift = np.uint64(65 - slots.bit_length())
        self._slots = np.zeros(slots, dtype=np.int64)
        self._words = np.zeros((slots // 2 + 1, 2), dtype=np.uint64)  # by number
        for address, number in self._known.items():
            self._place(address, number)

    def __len__(self) -> int:
        return len(self._known)

    def items(self) -> Iterable[tuple[bytes, int]]:
        """Addresses with their numbers."""
        return self._known.items()

    def add(self, address: bytes) -> int:
        """The number of an address, which it gets where it has none."""
        if number := self._known.get(address):
            return number
        number = self._known[address] = len(self._known) + 1
        if 2 * number > len(self._slots):
            self._make(2 * len(self._slots))
        else:
            self._place(address, number)
        return number

    def _place(self, address: bytes, number: int) -> None:
        words = int.from_bytes(address[:8], "little"), int.from_bytes(address[8:], "little")
        self._words[number] = words
        mixed = ((words[0] ^ words[1]) * _MULTIPLIER) & _MASK
        slot = mixed >> int(self._shift)
        while self._slots[slot]:
            slot = (slot + 1) % len(self._slots)
        self._slots[slot] = number

    def find(self, column: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The numbers of a column of addresses, shape (rows, 16); 0 for those that are not known."""
        words: Any = np.ascontiguousarray(column).view(np.uint64)
        high, low = words[:, 0], words[:, 1]
        slots = ((high ^ low) * np.uint64(_MULTIPLIER) >> self._shift).view(np.int64)
        found: NDArray[np.int64] = self._slots.take(slots)
        wrong = (self._words[:, 1].take(found) != low) | (self._words[:, 0].take(found) != high)
        wrong &= found != 0
        left = np.flatnonzero(wrong)
        while len(left):  # another address stands there: the next slot, until it is found or a slot is empty
            slots[left] = (slots[left] + 1) % len(self._slots)
            there = found[left] = self._slots.take(slots[left])
            same = (self._words[there] == words[left]).all(axis=1) | (there == 0)
            left = left[~same]
        return found
