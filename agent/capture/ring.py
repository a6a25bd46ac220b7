"""Frames from the kernel: AF_PACKET rings on Linux, one ring per link type.

A ring's filter fits one link type only. It is bound to its interface where one is chosen, else to all, with a test of
the interface's index in front of the user's filter, so that what was not chosen never reaches the ring.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from agent.capture import Block, CaptureError, Counters, Interface
from agent.capture.bpf import REJECT, accept, compile_filter, only_interfaces
from agent.capture.interfaces import InterfaceInfo, choose, list_interfaces
from agent.capture.tpacket import RETIRE_MS, Frames, Ring

_OUTGOING = 4  # PACKET_OUTGOING
_MOST_FRAMES = 32768
_DRAIN_SECONDS = 20 * RETIRE_MS / 1000


@dataclass(frozen=True, slots=True)
class Known:
    """The interfaces of one ring, as arrays sorted by kernel index: place in the source's list, loopback or not."""

    ifindex: NDArray[np.int32]
    place: NDArray[np.uint16]
    loopback: NDArray[np.bool_]

    @classmethod
    def of(cls, chosen: Sequence[InterfaceInfo], first: int) -> Known:
        """`chosen` are in order of their index; the first of them has place `first`."""
        return cls(
            np.array([interface.index for interface in chosen], dtype=np.int32),
            np.arange(first, first + len(chosen), dtype=np.uint16),
            np.array([interface.loopback for interface in chosen], dtype=np.bool_),
        )

    def find(self, ifindex: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For each index its place in these arrays, and whether it is there at all."""
        at = np.minimum(np.searchsorted(self.ifindex, ifindex), len(self.ifindex) - 1)
        return at, self.ifindex[at] == ifindex


def sort_out(frames: Frames, known: Known) -> tuple[Frames, NDArray[np.uint16], dict[str, int]]:
    """The frames that count, the place of each one's interface, and how many were discarded by reason.

    A frame on the loopback interface is seen twice, on its way out and in: the first is dropped.
    """
    at, there = known.find(frames.ifindex)
    copy = there & known.loopback[at] & (frames.pkttype == _OUTGOING)
    keep = there & ~copy
    if keep.all():
        return frames, known.place[at], {}
    discarded = {"loopback_copy": int(copy.sum()), "unselected_interface": int((~there).sum())}
    kept = Frames(**{field.name: getattr(frames, field.name)[keep] for field in fields(Frames)})
    return kept, known.place[at[keep]], {reason: count for reason, count in discarded.items() if count}


class RingSource:
    """Live frames of the interfaces that match the globs `include` and not `exclude`.

    `ring_bytes` is the kernel memory of each ring. `vlan` primitives in the filter work: where the kernel took the
    tag off, the compiled program asks the kernel for it. Interfaces that appear later are not taken up yet.
    """

    live = True

    def __init__(
        self,
        include: Sequence[str],
        exclude: Sequence[str] = (),
        *,
        bpf: str | None = None,
        snaplen: int = 262144,
        ring_bytes: int = 64 << 20,
        promisc: bool = False,
    ) -> None:
        self.interfaces: list[Interface] = []
        self.done = False
        self._include, self._exclude = include, exclude
        self._bpf, self._snaplen, self._ring_bytes, self._promisc = bpf, snaplen, ring_bytes, promisc
        self._rings: list[tuple[Ring, Known]] = []
        self._turn = 0
        self._poll = select.poll()
        self._stopping = 0.0  # when the drain gives up
        self._lock = threading.Lock()  # counters are asked from other threads
        self._discarded: dict[str, int] = {}

    @property
    def linktypes(self) -> set[int]:
        """Link types of the chosen interfaces."""
        return {interface.linktype for interface in self.interfaces}

    def open(self) -> None:
        """Start to capture. Raises NoRights, or CaptureError: no interface matches, or the filter is wrong."""
        chosen = choose(list_interfaces(), self._include, self._exclude)
        by_linktype: dict[int, list[InterfaceInfo]] = {}
        for interface in chosen:
            by_linktype.setdefault(interface.linktype or 0, []).append(interface)
        try:
            for linktype, members in by_linktype.items():
                self._open_ring(linktype, members)
        except CaptureError:
            self.close()
            raise

    def _open_ring(self, linktype: int, members: Sequence[InterfaceInfo]) -> None:
        alone = members[0].index if len(members) == 1 else 0
        ring = Ring(alone, self._program(linktype, members), self._ring_bytes)
        self._rings.append((ring, Known.of(members, len(self.interfaces))))
        self.interfaces += [Interface(member.name, linktype) for member in members]
        self._poll.register(ring.socket, select.POLLIN | select.POLLERR)
        for member in members if self._promisc else ():
            ring.promiscuous(member.index)

    def _program(self, linktype: int, members: Sequence[InterfaceInfo]) -> bytes:
        if self._bpf:
            up = [member.name for member in members if member.up]
            device = up[0] if up else None
            program = compile_filter(self._bpf, linktype, snaplen=self._snaplen, device=device)
        else:
            program = accept(self._snaplen)
        return program if len(members) == 1 else only_interfaces((member.index for member in members), program)

    def next_block(self, timeout: float) -> Block | None:
        """The frames that are there, of one ring. None where none came in time or the source is done."""
        deadline = time.monotonic() + timeout
        for ring, _ in self._rings:
            ring.give_back()
        while not self.done:
            block = self._take()
            if block is not None:
                if len(block):
                    return block
                continue
            if self._stopping and self._drained():
                self.done = True
                break
            if not self._wait(deadline - time.monotonic()):
                break
        return None

    def _take(self) -> Block | None:
        """What one of the rings holds, the rings in turn."""
        for _ in self._rings:
            self._turn = (self._turn + 1) % len(self._rings)
            ring, known = self._rings[self._turn]
            frames = ring.take(ring.blocks // 4, _MOST_FRAMES)
            if frames is not None:
                return self._block(ring, known, frames)
        return None

    def _block(self, ring: Ring, known: Known, frames: Frames) -> Block:
        frames, iface, discarded = sort_out(frames, known)
        with self._lock:
            for reason, count in discarded.items():
                self._discarded[reason] = self._discarded.get(reason, 0) + count
        if not len(iface):
            ring.give_back()
        vlan = frames.vlan if (frames.vlan >= 0).any() else None
        return Block(ring.data, frames.offset, frames.cap_len, frames.wire_len, frames.time, iface, vlan=vlan)

    def _wait(self, seconds: float) -> bool:
        """Until a ring may have something, at most so long; False where the time is over."""
        if seconds <= 0:
            return False
        if self._stopping:
            seconds = min(seconds, RETIRE_MS / 1000)
        for fd, events in self._poll.poll(seconds * 1000):
            if events & select.POLLERR:
                self._heed_error(fd)
        return True

    def _heed_error(self, fd: int) -> None:
        """An interface that goes down leaves an error on a socket bound to it; frames come again once it is up."""
        ring = next(ring for ring, _ in self._rings if ring.socket.fileno() == fd)
        error = ring.clear_error()
        if error not in ("", "ENETDOWN"):
            raise CaptureError(f"capture failed: {error}")

    def counters(self) -> Counters:
        """The kernel's counts and ours, since the source was opened."""
        with self._lock:
            self._count()
            packets = sum(ring.packets for ring, _ in self._rings)
            return Counters(packets, sum(ring.dropped for ring, _ in self._rings), dict(self._discarded))

    def _count(self) -> None:
        for ring, _ in self._rings:
            if ring.socket.fileno() >= 0:
                ring.count()

    def stop(self) -> None:
        """Reject everything from now on; what is in the rings can still be read."""
        for ring, _ in self._rings:
            ring.attach(REJECT)
        self._stopping = time.monotonic() + _DRAIN_SECONDS
        self.done = self.done or not self._rings

    def _drained(self) -> bool:
        """Whether every packet the kernel put into a ring was taken out, or it is too late to wait for it.

        A block that is not full is handed over after RETIRE_MS, so waiting longer than that is no use.
        """
        with self._lock:
            self._count()
            balanced = all(ring.packets - ring.dropped == ring.taken for ring, _ in self._rings)
        return balanced or time.monotonic() > self._stopping

    def close(self) -> None:
        """Close the rings. Their counters can still be asked."""
        with self._lock:
            self._count()
            for ring, _ in self._rings:
                ring.close()
        self.done = True
