"""User messages in SCTP packets (RFC 9260, 3.3.1): of each packet the first that begins in it is its payload.

What is bundled behind it is not read, nor is a message over several packets put together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.decode.walk import Payloads
from protocol.columns import Columns
from protocol.schema import Has

DATA, BEGINS = 0, 2
CHUNK, HEADER = 4, 16  # bytes of any chunk's header, and of DATA's
CHUNKS = 16  # most chunks looked at of one packet


def narrow(columns: Columns, payloads: Payloads) -> None:
    """Make the payloads of SCTP packets, which are all of their chunks, the user message that begins in them."""
    sctp = (np.asarray(columns["layers"]) & np.uint64(int(Has.SCTP))) != 0
    rows = np.flatnonzero(sctp & (payloads.length > 0))
    at, end = payloads.start[rows], payloads.start[rows] + payloads.length[rows]
    payloads.length[rows] = 0
    for _ in range(CHUNKS):
        whole = at + CHUNK <= end
        rows, at, end = rows[whole], at[whole], end[whole]
        if not len(rows):
            return
        size = payloads.data[at + 2].astype(np.int64) << 8 | payloads.data[at + 3]
        found = (payloads.data[at] == DATA) & ((payloads.data[at + 1] & BEGINS) != 0)
        _set(payloads, rows[found], at[found] + HEADER, np.minimum(at + size, end)[found])
        left = ~found & (size >= CHUNK)
        rows, end, at = rows[left], end[left], (at + ((size + 3) & ~3))[left]


def _set(payloads: Payloads, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]) -> None:
    payloads.start[rows] = start
    payloads.length[rows] = np.maximum(end - start, 0)
