"""Where frames come from: one file per source, all with the small interface `Source`.

Lives here: reading frames from files (`file`), from scapy's listen sockets (`scapy_socket`) and from the kernel's ring
(`ring`), choosing interfaces (`interfaces`). May not live here: looking into frames (`agent.decode`), the uplink.

A source hands out `Block`s: many frames lying in one buffer, described by arrays. Nothing is copied per frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Interface:
    """Where frames were captured: a name, the link type (LINKTYPE_* as in pcap files), its number in the capture file.

    `id` is None for live interfaces and classic pcap files.
    """

    name: str
    linktype: int
    id: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """`n` frames in one buffer. The arrays have shape (n,); `data` is uint8 and lives as long as the block.

    Frame i is `data[offset[i] : offset[i] + cap_len[i]]`, was `wire_len[i]` bytes long on the wire, seen at `time[i]`
    (int64, ns since 1970; meaningless where `timeless[i]`) on `interfaces[iface[i]]` of the source. `vlan` is the tag
    the kernel stripped off (TCI in the low 16 bits, TPID above; -1 where there was none), None from sources that never
    strip; its 4 bytes count in `wire_len`, not in `cap_len`. `data` may be a whole file or ring: no work on all of it.
    """

    data: NDArray[np.uint8]
    offset: NDArray[np.int64]
    cap_len: NDArray[np.uint32]
    wire_len: NDArray[np.uint32]
    time: NDArray[np.int64]
    iface: NDArray[np.uint16]
    timeless: NDArray[np.bool_] | None = None
    vlan: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.offset)


def pick(block: Block, chosen: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Block:
    """Some frames of a block: a slice of them, those where a mask of shape (n,) is true, or those at places."""
    arrays = ("offset", "cap_len", "wire_len", "time", "iface", "timeless", "vlan")
    taken = {name: value[chosen] for name in arrays if (value := getattr(block, name)) is not None}
    return replace(block, **taken)


@dataclass(slots=True)
class Counters:
    """What a source has seen since it was opened, in packets. Kernel terms are zero for files.

    `kernel_packets` passed the filter (drops included), `kernel_dropped` of them found no room, `discarded` were
    handed to us and not captured, by reason (`protocol.ledger.DISCARDED`).
    """

    kernel_packets: int = 0
    kernel_dropped: int = 0
    discarded: dict[str, int] = field(default_factory=dict)


class CaptureError(Exception):
    """A source cannot go on; the text says what happened and what to do, in one line."""


class NoRights(CaptureError):
    """The right to capture is missing."""


class Source(Protocol):
    """Frames, a block at a time. One thread opens, reads and closes; `counters` may be asked from any thread."""

    interfaces: list[Interface]  # grows as interfaces appear; an index never changes its meaning
    live: bool  # a live source may not be kept waiting, a file may
    done: bool  # nothing will ever come again

    def open(self) -> None:
        """Start. Raises CaptureError (NoRights where the right is missing)."""

    def next_block(self, timeout: float) -> Block | None:
        """The next frames, or None where none came within `timeout` seconds or the source is done.

        The block's memory is the caller's until the next call. Raises CaptureError.
        """

    def counters(self) -> Counters:
        """What was seen so far."""

    def stop(self) -> None:
        """No frame that arrives from now on is taken; what is already there can still be read until `done`."""

    def close(self) -> None:
        """Give everything back."""
