"""The interfaces that one ring serves: which kernel index is which, and what of the frames counts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.capture.interfaces import InterfaceInfo
from agent.capture.tpacket import Frames

_OUTGOING = 4  # PACKET_OUTGOING
LINGER = 60.0
"""Seconds for which frames of an interface that went away are still taken: those already in the ring."""


@dataclass(frozen=True, slots=True)
class Known:
    """The interfaces of one ring, as arrays sorted by kernel index: place in the source's list, loopback or not."""

    ifindex: NDArray[np.int32]
    place: NDArray[np.uint16]
    loopback: NDArray[np.bool_]

    def find(self, ifindex: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For each index its place in these arrays, and whether it is there at all."""
        at = np.minimum(np.searchsorted(self.ifindex, ifindex), len(self.ifindex) - 1)
        return at, self.ifindex[at] == ifindex


def sort_out(frames: Frames, known: Known) -> tuple[Frames, NDArray[np.uint16], dict[str, int]]:
    """The frames that count, the place of each one's interface, and how many were discarded by reason.

    A frame on the loopback interface is seen twice, on its way out and in: the first is dropped.
    """
    if len(frames.ifindex) and bool((frames.ifindex == frames.ifindex[0]).all()):  # as it is most of the time
        (at,), (there,) = known.find(frames.ifindex[:1])
        if there and not known.loopback[at]:
            return frames, np.full(len(frames.ifindex), known.place[at]), {}
    at, there = known.find(frames.ifindex)
    copy = there & known.loopback[at] & (frames.pkttype == _OUTGOING)
    keep = there & ~copy
    if keep.all():
        return frames, known.place[at], {}
    discarded = {"loopback_copy": int(copy.sum()), "unselected_interface": int((~there).sum())}
    arrays: dict[str, Any] = {field.name: getattr(frames, field.name) for field in fields(Frames)}
    taken: dict[str, Any] = {name: array if array is None else array[keep] for name, array in arrays.items()}
    return Frames(**taken), known.place[at[keep]], {reason: count for reason, count in discarded.items() if count}


@dataclass(slots=True)
class _Member:
    place: int
    loopback: bool
    gone: float | None  # since when it is no longer there


class Members:
    """The interfaces of one link type through time. `place_of(name)` says where in the source's list one stands."""

    def __init__(self, place_of: Callable[[str], int]) -> None:
        self.present: tuple[InterfaceInfo, ...] = ()
        """Those that are there now, by index."""
        self._place_of = place_of
        self._members: dict[int, _Member] = {}
        self.known = self._table()

    def update(self, present: Iterable[InterfaceInfo], now: float) -> bool:
        """`present` are there from now on, no others; whether that is another set. `now` are seconds that only rise."""
        before, self.present = self.present, tuple(sorted(present, key=lambda interface: interface.index))
        if _identities(before) == _identities(self.present):
            return False
        for interface in self.present:
            self._members[interface.index] = _Member(self._place_of(interface.name), interface.loopback, None)
        here = {interface.index for interface in self.present}
        for index, member in list(self._members.items()):
            if index not in here:
                member.gone = now if member.gone is None else member.gone
                if now - member.gone > LINGER:
                    del self._members[index]
        self.known = self._table()
        return True

    def _table(self) -> Known:
        rows = sorted((index, member.place, member.loopback) for index, member in self._members.items())
        index, place, loopback = zip(*rows, strict=True) if rows else ((-1,), (0,), (False,))  # no frame bears -1
        return Known(
            np.array(index, dtype=np.int32), np.array(place, dtype=np.uint16), np.array(loopback, dtype=np.bool_)
        )


def _identities(interfaces: Iterable[InterfaceInfo]) -> list[tuple[int, str]]:
    return [(interface.index, interface.name) for interface in interfaces]
