"""Finding the records of a capture file: each says how long it is, so the next is known only once this one is.

A chain of that kind cannot be split, but it can be guessed: take many places, guess a record's start near each, follow
all the chains from there in lockstep, then check. The first chain starts at a true record; where it arrives exactly at
the second one's guess, that guess was true as well, and so on. A wrong guess costs time and never a wrong answer.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

LANES = 256
"""Chains followed at the same time: fewer make each numpy call dearer per record, more cost guesses."""
STEPS = 16
"""Records each chain goes forward before the chains that have arrived are taken out."""
SHORTEST = 1 << 18
"""Windows of fewer bytes are walked one record after the other."""


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


Guess = Callable[[int, int], int]
"""A likely start of a record in [low, high), or -1."""


def words(data: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """A view of `data` as integers that begin at every byte: item i is read from byte i on."""
    width = np.dtype(dtype).itemsize
    return np.ndarray((max(0, len(data) - width + 1),), dtype, data, strides=(1,))


def pairs(data: NDArray[np.uint8], dtype: str, places: Positions) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two 32-bit integers, of type `dtype`, that lie one after the other at each place."""
    both = words(data, "=u8")[places].view(dtype)
    return both[0::2], both[1::2]


def walk(raw: bytes | mmap.mmap, law: Law, place: int, end: int) -> tuple[list[int], int]:
    """The starts of records in [place, end), one after the other, and where the next one starts."""
    order: Literal["little", "big"] = "little" if law.dtype.startswith("<") else "big"
    low, high, added, header, mask = law.length_at, law.length_at + 4, law.added, law.header, law.unit - 1
    number = int.from_bytes
    found: list[int] = []
    append = found.append
    while place < end:
        append(place)
        length = (number(raw[place + low : place + high], order) + added + mask) & ~mask
        place += length if length > header else header
    return found, place


def _follow(view: NDArray[Any], law: Law, starts: Positions, bounds: Positions) -> tuple[Positions, Positions]:
    """All chains from `starts`, each up to its bound: the places visited (any order) and where each arrived.

    A chain that has arrived walks on, unheeded, until the next stock-taking: that is cheaper than asking at each step.
    """
    arrived, lanes, places, limits = starts.copy(), np.arange(len(starts)), starts, bounds
    shift, end, visited = law.added + law.unit - 1, bounds[-1], []
    while len(lanes):
        trail = np.empty((STEPS + 1, len(lanes)), dtype=np.int64)
        trail[0] = places
        for here, there in pairwise(trail):
            at = np.minimum(here, end)
            at += law.length_at
            np.add(view[at], shift, out=at)
            if law.unit > 1:
                at &= -law.unit
                np.maximum(at, law.header, out=at)
            np.add(here, at, out=there)
        inside = trail < limits
        visited.append(trail[:-1][inside[:-1]])
        gone = np.flatnonzero(~inside[-1])
        arrived[lanes[gone]] = trail[inside[:, gone].sum(axis=0), gone]
        lanes, places, limits = (of[inside[-1]] for of in (lanes, trail[-1], limits))
    return np.concatenate(visited), arrived


def find_records(
    raw: bytes | mmap.mmap, data: NDArray[np.uint8], law: Law, place: int, end: int, guess: Guess
) -> tuple[Positions, int]:
    """The starts of all records in [place, end), rising, and where the next one starts.

    `end` is at most len(data) - law.header + 1. Lengths are believed: who calls checks them.
    """
    starts = _starts(place, end, guess)
    if len(starts) < 8:
        found, after = walk(raw, law, place, end)
        return np.array(found, dtype=np.int64), after
    lanes = np.array(starts, dtype=np.int64)
    bounds = np.append(lanes[1:], end)
    visited, arrived = _follow(words(data, law.dtype), law, lanes, bounds)
    wrong = np.flatnonzero(arrived[:-1] != lanes[1:])
    after = int(arrived[-1])
    if len(wrong):  # true up to the first chain that missed the next one's start
        bound, after = int(bounds[wrong[0]]), int(arrived[wrong[0]])
        visited = visited[visited < bound]
    visited.sort()
    if not len(wrong):
        return visited, after
    rest, after = walk(raw, law, after, end)
    return np.concatenate([visited, np.array(rest, dtype=np.int64)]), after


def _starts(place: int, end: int, guess: Guess) -> Sequence[int]:
    if end - place < SHORTEST:
        return [place]
    stride = (end - place) // LANES
    starts = [place]
    for low in range(place + stride, end - stride + 1, stride):
        found = guess(max(low, starts[-1] + 1), low + stride)
        if found >= 0:
            starts.append(found)
    return starts
