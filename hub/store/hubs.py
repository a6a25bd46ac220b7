"""The hubs over one store: which number a commit gets, and up to where all commits are whole.

A commit's number is milliseconds since 1970 and the number of its hub, so that no two hubs give the same and all hubs'
numbers rise together. A hub's `floor` says that its own commits below it are whole, lines and all; the smallest floor
of all hubs that live is what may be shown. A hub whose floor stands still for EXPIRE seconds has ended, hangs, or
cannot reach the store: it is cleared up after, and then it does not count any more.

Pure: `now` is an argument, in ns of the wall clock for numbers, in seconds of a steady one for who lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BITS = 16
STEP = 1 << BITS
"""Distance of two numbers of one hub."""
EXPIRE = 10.0
"""Seconds after which a hub that says nothing new does not count."""
AHEAD_NS = 3 * 10**9
"""How far in the future the first numbers of a hub lie: above what the others may show before they know of it."""


def number_at(now_ns: int, hub: int) -> int:
    """The smallest commit number of a hub at a time."""
    return (now_ns // 1_000_000 << BITS) | hub


def hub_of(commit: int) -> int:
    """The number of the hub that made a commit."""
    return commit & (STEP - 1)


@dataclass(slots=True)
class Numbers:
    """The numbers that one hub gives. `pending` are those whose lines are not known to be stored."""

    hub: int
    last: int = 0
    pending: dict[int, int] = field(default_factory=dict)  # number -> entries that wait

    def start(self, now_ns: int, above: int) -> None:
        """Begin, or begin again after a pause: above what may be shown by then."""
        shown_ns = (above >> BITS) * 1_000_000
        self.last = max(self.last, number_at(max(now_ns, shown_ns) + AHEAD_NS, self.hub))

    def take(self, now_ns: int) -> int:
        """The next number."""
        self.last = max(self.last + STEP, number_at(now_ns, self.hub))
        return self.last

    def hold(self, number: int) -> None:
        """An entry got that number and is not stored yet."""
        self.pending[number] = self.pending.get(number, 0) + 1

    def release(self, number: int) -> None:
        """Its line is stored, or will never be."""
        left = self.pending.pop(number) - 1
        if left:
            self.pending[number] = left

    def floor(self, now_ns: int) -> int:
        """Below this one every commit of the hub is whole; what is given from now on is not below."""
        if self.pending:
            return min(self.pending)
        self.last = max(self.last, number_at(now_ns, self.hub))
        return self.last + 1


@dataclass(slots=True)
class Peer:
    """Another hub as it was last seen."""

    floor: int
    changed: float


@dataclass(slots=True)
class Peers:
    """The other hubs."""

    known: dict[int, Peer] = field(default_factory=dict)

    def saw(self, floors: Mapping[int, int], now: float) -> None:
        """What those that have not left said last."""
        for hub, floor in floors.items():
            peer = self.known.setdefault(hub, Peer(floor, now))
            if floor > peer.floor:
                peer.floor, peer.changed = floor, now
        for hub in [hub for hub in self.known if hub not in floors]:
            del self.known[hub]

    def expired(self, now: float) -> list[int]:
        """Those that have said nothing new for too long."""
        return [hub for hub, peer in self.known.items() if now - peer.changed > EXPIRE]

    def floors(self) -> Iterable[int]:
        """Of all that count."""
        return [peer.floor for peer in self.known.values()]
