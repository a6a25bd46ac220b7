"""Rows that belong together: the packets of one direction of a flow.

What all rows of a group share is sent once a group, and what changes little from one of its packets to the next is
sent in the order of the groups. Which rows are one group is the sender's choice: any partition is right, and a good
one is small. `groups_of` makes one by a 64-bit hash of addresses, ports and interface; two flows with the same hash are
one group, and their columns are found not to be shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.columns import Array, Columns, Dict

MIN_ROWS = 64
"""Fewer rows than these are not grouped."""
MIN_SHARE = 2
"""Rows that a group must have on average: else what is saved does not pay for the codes."""
ROUNDS = 8
"""How often rows whose places in the table collide are placed anew: hashes made to collide cost this and no more."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits in no order: 2**64 over the golden ratio
_WORD = np.uint64(16)
_HALF = np.uint64(29)
_STEP = 0x9E3779B97F4A7C16


@dataclass(frozen=True)
class Groups:
    """A partition of rows: `codes` (rows,) unsigned, below `count`; a group may be empty."""

    codes: Array
    count: int

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """`codes` as numpy likes to index by."""
        return self.codes.astype(np.int64)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The rows in the order of their groups, within a group as they stand."""
        small = self.codes.astype("<u2") if self.count <= 1 << 16 else self.codes  # sorted by radix
        return np.argsort(small, kind="stable")

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Where in `order` each row stands."""
        places = np.empty(len(self.codes), dtype=np.int64)
        places[self.order] = np.arange(len(self.codes))
        return places

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """(rows - 1,), in `order`: whether a row is of the same group as the one before it."""
        ordered = self.codes.take(self.order)
        same: NDArray[np.bool_] = ordered[1:] == ordered[:-1]
        return same

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where in `order` each group begins, for groups of which none is empty."""
        return np.concatenate([[0], np.flatnonzero(~self.inside) + 1])


def groups_of(columns: Columns) -> Groups | None:
    """The rows by flow, groups numbered in the order they begin; None where that would not pay."""
    rows = len(columns["layers"])
    if rows < MIN_ROWS:
        return None
    leaders = _leaders(_hashes(columns, rows))
    if leaders is None:
        return None
    begins = leaders == np.arange(rows)
    count = int(np.count_nonzero(begins))
    if count == 1 or count * MIN_SHARE > rows:
        return None
    return Groups((np.cumsum(begins, dtype="<u4") - np.uint32(1)).take(leaders), count)


def _hashes(columns: Columns, rows: int) -> NDArray[np.uint64]:
    hashes, high = np.zeros(rows, dtype="<u8"), np.empty(rows, dtype="<u8")
    for word in _words(columns, rows):
        hashes ^= word
        hashes *= _MULTIPLIER
        hashes ^= np.right_shift(hashes, _HALF, out=high)
    return hashes * _MULTIPLIER


def _words(columns: Columns, rows: int) -> list[Any]:
    """What names a flow in a few words a row; that two flows may have the same ones costs bytes and nothing else."""
    ports = np.zeros((rows, 4), dtype="<u2")
    for i, name in enumerate(("src_port", "dst_port", "proto", "ethertype")):
        ports[:, i] = columns.get(name, 0)
    (src_net, src), (dst_net, dst) = _halves(columns, "src"), _halves(columns, "dst")
    words = [src, dst, ports.view("<u8")[:, 0] ^ _both(src_net, dst_net)]
    if isinstance(iface := columns["iface"], Dict) and len(iface.values) > 1:
        words.append(iface.codes.astype("<u8"))
    if "eth_src" in columns:
        words.append(_both(*(np.asarray(columns[name]).astype("<u8", copy=False) for name in ("eth_src", "eth_dst"))))
    if "tunnel_src" in columns:
        outer = _both(_halves(columns, "tunnel_src")[1], _halves(columns, "tunnel_dst")[1])
        words += [outer] if outer.any() else []
    return words


def _halves(columns: Columns, name: str) -> tuple[Any, Any]:
    words = np.ascontiguousarray(columns[name]).view("<u8")
    return words[:, 0], words[:, 1]


def _both(one: Any, other: Any) -> Any:
    return one ^ (other << _WORD)


def _leaders(hashes: NDArray[np.uint64]) -> NDArray[np.int64] | None:
    """For every row the first row with its hash: by a table twice as large as the rows, without sorting."""
    rows = len(hashes)
    shift = np.uint64(63 - (rows - 1).bit_length())
    table = np.empty(1 << (64 - int(shift)), dtype=np.int64)
    leaders = np.empty(rows, dtype=np.int64)
    left = np.arange(rows)
    for number in range(ROUNDS):
        mine = hashes if not number else hashes[left]
        slots = (mine * np.uint64(1 + number * _STEP & (1 << 64) - 1) >> shift).view(np.int64)
        table[slots[::-1]] = left[::-1]  # of several rows the first stays
        found = table.take(slots)
        same = hashes.take(found) == mine
        if bool(same.all()):
            leaders[left] = found
            return leaders
        leaders[left[same]] = found[same]
        left = left[~same]
    return None
