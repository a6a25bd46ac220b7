"""Which connection a packet belongs to, as one 64-bit number, and which way it goes. A whole block at a time.

Both ways of a connection have the same number: the hashes of the two endpoints are added. The multipliers are random
and new in every run, so that nobody outside can choose packets that share a number; among 16,000 connections two do by
chance once in 10^11 runs. The interface belongs to it: a packet that is seen on two of them is not fed twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.columns import Columns, Dict

Words = NDArray[np.uint64]

_HALF = np.uint64(32)


def _mix(words: Words, more: Words, seed: np.uint64) -> Words:
    words = (words + more) * seed
    words ^= words >> _HALF
    return words


def _endpoint(address: Words, port: Words, seeds: Words) -> Words:
    return _mix(_mix(address[:, 1] * seeds[0], address[:, 0], seeds[1]), port, seeds[2])


def connections(columns: Columns, rows: NDArray[np.int64], seeds: Words) -> tuple[Words, NDArray[np.bool_]]:
    """The number of each of these rows' connections, and its direction: the two ways differ. Shapes of `rows`.

    `columns` are of the table packets; `seeds` are four odd 64-bit numbers.
    """
    ends = []
    for side in ("src", "dst"):
        address = np.ascontiguousarray(columns[side]).view(np.uint64)[rows]
        ends.append(_endpoint(address, np.asarray(columns[f"{side}_port"])[rows].astype(np.uint64), seeds))
    iface = columns["iface"]
    assert isinstance(iface, Dict)
    where = (iface.codes[rows].astype(np.uint64) << np.uint64(8)) | np.asarray(columns["proto"])[rows]
    return _mix(ends[0] + ends[1], where, seeds[3]), ends[0] > ends[1]
