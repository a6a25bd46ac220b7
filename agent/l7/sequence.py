"""Where a connection's TCP segments stand in their streams: sent again, behind a gap, or what comes next.

Kept per direction: the sequence number expected next, in a table of fixed size in which the newest direction has the
place. A direction begins with its SYN, or with the first payload that a parser claims; a segment of which nothing was
known stands right, but one whose direction lost its place stands behind a gap: something may have been missed since.
All of it is worked out for a block at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Mask = NDArray[np.bool_]

BITS = 18
"""Directions remembered: 2**18, at 12 bytes each."""
DISPLACED_BITS = 16
"""Directions that lost their place, and are remembered for that alone: 2**16, at 8 bytes each."""
FAR = 1 << 24
"""No segment that was sent again is this many bytes behind: the numbers are another connection's, or damaged."""

_PLACES = np.uint64((1 << BITS) - 1)
_DISPLACED = np.uint64(64 - DISPLACED_BITS)  # a shift: other bits of a direction than those of its place
_APART = 34  # bits: further than any two relative sequence numbers and a length can be
_WORD = (1 << 32) - 1


class Segments(NamedTuple):
    """TCP segments with payload, or SYN, in the order they were seen; shape (n,)."""

    keys: Words  # connections
    ways: Mask
    seq: NDArray[np.uint32]
    size: Ints  # payload bytes on the wire
    syn: Mask

    def part(self, at: Any) -> Segments:
        """Some of them."""
        return Segments(*(array[at] for array in self))


class Places(NamedTuple):
    """What is said of `Segments`; shape (n,)."""

    ahead: Ints
    """Bytes between the one expected and the segment's first: more than 0 behind a gap (1 where it is not known how
    many), less than 0 seen before."""
    began: Mask
    """SYNs that begin another connection where one was known; those sent again do not."""


class Sequences:
    """The sequence numbers expected of the directions seen last."""

    def __init__(self) -> None:
        self._of = np.zeros(1 << BITS, dtype=np.uint64)
        self._next = np.zeros(1 << BITS, dtype=np.uint32)
        self._displaced = np.zeros(1 << DISPLACED_BITS, dtype=np.uint64)
        self._begins = np.zeros(1 << BITS, dtype=np.bool_)  # scratch

    def clear(self) -> None:
        """Forget everything."""
        self._of[:] = self._displaced[:] = 0

    def place(self, segments: Segments, new: Mask) -> Places:
        """Where the segments stand, and what is expected behind them. `new` are those that make a direction known."""
        ahead = np.zeros(len(new), dtype=np.int64)
        began = np.zeros(len(new), dtype=np.bool_)
        directions = (segments.keys & ~np.uint64(1)) | segments.ways
        slots = (directions & _PLACES).astype(np.int64)
        self._begins[slots[new]] = True
        at = np.flatnonzero((self._of[slots] == directions) | self._begins[slots])
        self._begins[slots[new]] = False
        if len(at):
            at = at[_order(slots[at])]
            ahead[at], began[at] = self._follow(directions[at], slots[at], segments.part(at))
        return Places(ahead, began)

    def _follow(self, directions: Words, slots: Ints, segments: Segments) -> tuple[Ints, Mask]:
        """As `place`, of segments that stand direction by direction."""
        first = np.ones(len(slots), dtype=np.bool_)
        np.not_equal(directions[1:], directions[:-1], out=first[1:])
        known = self._of[slots] == directions
        known[1:] &= slots[1:] != slots[:-1]  # of two directions in one place the first
        stood = np.where(known, self._next[slots], segments.seq)
        starts = segments.syn & ~_again(segments, first, known, stood)
        heads = np.flatnonzero(first | starts)
        runs = np.diff(np.append(heads, len(slots)))
        base = np.repeat(np.where(starts, segments.seq, stood)[heads], runs)
        begin = (segments.seq - base).view(np.int32).astype(np.int64)
        run = np.repeat(np.arange(len(heads)), runs) << _APART
        end = begin + segments.size + segments.syn
        end[heads] = np.maximum(end[heads], 0)
        top = np.maximum.accumulate(end + run) - run
        expected = np.empty_like(top)
        expected[1:] = top[:-1]
        expected[heads] = 0
        behind = ((base + top) & _WORD).astype(np.uint32)
        began = starts & (known | ~first)
        firsts = np.flatnonzero(first)
        last = np.append(firsts[1:], len(slots)) - 1
        ahead = begin - expected
        ahead[self._back(directions, slots, firsts, first & ~known & ~starts)] = 1
        self._keep(directions[last], slots[last], behind[last])
        # One byte goes out to probe a window that is closed, and again with the others.
        ahead[(ahead <= -FAR) | ((ahead == -1) & (segments.size > 1))] = 0
        return ahead, began

    def _back(self, directions: Words, slots: Ints, firsts: Ints, unknown: Mask) -> Ints:
        """Where a direction goes on that had lost its place, before this block or within it."""
        at = np.flatnonzero(unknown)
        asked = directions[at]
        back = self._displaced[(asked >> _DISPLACED).astype(np.int64)] == asked
        if (slots[at] == slots[at - 1]).any():
            _, earliest = np.unique(directions[firsts], return_index=True)
            back |= (self._of[slots[at]] == asked) | ~np.isin(at, firsts[earliest])
        found: Ints = at[back]
        return found

    def _keep(self, directions: Words, slots: Ints, behind: NDArray[np.uint32]) -> None:
        """What is expected of each direction now; of those that share a place the last one has it."""
        before = self._of[slots]
        self._of[slots], self._next[slots] = directions, behind
        now = self._of[slots]
        for lost in (before, directions):
            lost = lost[(lost != now) & (lost != 0)]
            self._displaced[(lost >> _DISPLACED).astype(np.int64)] = lost


def _again(segments: Segments, first: Mask, known: Mask, stood: NDArray[np.uint32]) -> Mask:
    """Which SYNs came before: they stand just behind what their direction began with. A new connection's number is
    higher, or any (RFC 6528)."""
    begins = np.flatnonzero(first)
    back = np.repeat(stood[begins], np.diff(np.append(begins, len(first)))) - segments.seq
    back += np.repeat(~known[begins], np.diff(np.append(begins, len(first))))
    again: Mask = (back - np.uint32(1) < FAR) & (known | ~first)
    return again


def _order(slots: Ints) -> Ints:
    """What sorts by slot and keeps the order within; numpy sorts 16 bits at a time in linear time."""
    low = np.argsort(slots.astype(np.uint16), kind="stable")
    return low[np.argsort((slots[low] >> 16).astype(np.uint8), kind="stable")]
