"""The memory of the flow table: slots, each with a key, a record and the state of its conversation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.flow_items import NAMES, Records
from agent.flow_keys import WORDS, Bools, Ints, Words
from agent.flow_seq import States, unknown

LEAST = 1024
"""Slots that there are at least, once there is any."""


class Store:
    """Slots, of which those that are `alive` are taken. A record is one row of memory; `records` are its words by name,
    each an array with one item a slot."""

    def __init__(self) -> None:
        self.alive: Bools = np.zeros(0, dtype=np.bool_)
        self.keys: Words = np.zeros((0, WORDS), dtype=np.uint64)
        self.states: States = unknown(0)
        self._hold(np.zeros((0, len(NAMES)), dtype=np.int64))

    def _hold(self, rows: NDArray[np.int64]) -> None:
        self.rows, self.records = rows, by_name(rows)

    def __len__(self) -> int:
        """Slots that are taken."""
        return int(np.count_nonzero(self.alive))

    def taken(self) -> Ints:
        """Slots that are taken, rising."""
        return np.flatnonzero(self.alive)

    def spare(self) -> Ints:
        """Slots that are free, rising."""
        return np.flatnonzero(~self.alive)

    def pick(self, slots: Ints) -> Records:
        """A copy of the records of these slots."""
        return by_name(self.rows[slots])

    def grow(self, needed: int) -> None:
        """Have at least `needed` slots."""
        if needed <= len(self.alive):
            return
        more = max(needed, 2 * len(self.alive), LEAST) - len(self.alive)
        self.alive = np.append(self.alive, np.zeros(more, dtype=np.bool_))
        self.keys = np.concatenate((self.keys, np.zeros((more, WORDS), dtype=np.uint64)))
        self.states = np.concatenate((self.states, unknown(more)))
        self._hold(np.concatenate((self.rows, np.zeros((more, len(NAMES)), dtype=np.int64))))


def by_name(rows: NDArray[np.int64]) -> Records:
    """Records as rows of words: each word of all of them by its name."""
    return {name: rows[:, place] for place, name in enumerate(NAMES)}
