"""The connections whose parsers keep state: bounded in number and in bytes, forgotten when they end or idle."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.l7 import Conn, Parser

MAX_TRACKS = 16_384
"""Connections remembered; the one that was silent for longest goes."""
MAX_BYTES = 16 << 20
"""Bytes of unfinished messages, all connections together; those of the longest silent go."""
IDLE_NS = 120 * 10**9
"""Silence after which a connection is forgotten, in packet time."""
QUIET = 32
"""Payloads of which a parser that never said anything may say nothing, before it loses the connection."""

_SLOTS = 1 << 20


@dataclass(slots=True)
class Track:
    """One connection: who reads it, what it remembers, and where each side's stream stands."""

    parser: Parser
    way: int  # direction of the first packet seen: its sender is side 0
    last: int  # packet time of the last payload, ns
    conn: Conn = field(default_factory=Conn)
    quiet: int = 0
    spoken: bool = False
    held: int = 0  # pending bytes as last counted
    fins: int = 0

    def lost(self, side: int) -> None:
        """Bytes of a side were missed."""
        self.conn.pending[side].clear()
        tell = getattr(self.parser, "lost", None)
        if tell is not None:
            tell(self.conn, side)


class Tracks:
    """Connections by their number, the longest silent first."""

    def __init__(self, most: int = MAX_TRACKS, most_bytes: int = MAX_BYTES) -> None:
        self.bytes = 0
        """Pending bytes of all connections."""
        self._most, self._most_bytes = most, most_bytes
        self._tracks: OrderedDict[int, Track] = OrderedDict()
        # connections by the low bits of their number: a fast "surely not"
        self._seen = np.zeros(_SLOTS, dtype=np.uint16)
        self.get = self._tracks.get

    def __len__(self) -> int:
        return len(self._tracks)

    def perhaps(self, keys: NDArray[np.uint64], new: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which connections may be known, or are among `new`; never misses one. Shape of `keys`."""
        low, fresh = (_slots(keys), _slots(new))
        held = self._seen[fresh]
        self._seen[fresh] = 1
        found: NDArray[np.bool_] = self._seen[low] != 0
        self._seen[fresh] = held
        return found

    def open(self, key: int, track: Track) -> Track:
        """Remember a connection, in place of what was known under its number."""
        self.forget(key)
        if len(self._tracks) >= self._most:
            self.forget(next(iter(self._tracks)))
        self._tracks[key] = track
        self._seen[key & (_SLOTS - 1)] += 1
        return track

    def used(self, key: int, track: Track, now: int) -> None:
        """A payload of the connection was read: count what is pending, and keep within the bounds."""
        track.last = now
        pending = track.conn.pending
        held = len(pending[0]) + len(pending[1])
        self.bytes += held - track.held
        track.held = held
        self._tracks.move_to_end(key)
        while self.bytes > self._most_bytes:
            self.forget(next(iter(self._tracks)))

    def forget(self, key: int) -> None:
        """The connection is over."""
        track = self._tracks.pop(key, None)
        if track is not None:
            self.bytes -= track.held
            self._seen[key & (_SLOTS - 1)] -= 1

    def expire(self, now: int) -> None:
        """Forget what has been silent for long at packet time `now`, ns."""
        while self._tracks:
            key, track = next(iter(self._tracks.items()))
            if now - track.last < IDLE_NS:
                return
            self.forget(key)

    def free(self) -> None:
        """Give up every unfinished message; the connections stay known."""
        if self.bytes:
            for track in self._tracks.values():
                if track.held:
                    track.lost(0)
                    track.lost(1)
                    track.held = 0
            self.bytes = 0

    def clear(self) -> None:
        """Forget everything."""
        self._tracks.clear()
        self._seen[:] = 0
        self.bytes = 0


def _slots(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (keys & np.uint64(_SLOTS - 1)).astype(np.int64)
