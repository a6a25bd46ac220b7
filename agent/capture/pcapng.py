"""pcapng files.

Layout: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html. A file is a chain of blocks (type, length,
body, length again); sections may differ in byte order, each numbers its interfaces from 0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.capture import Block, CaptureError, Interface
from agent.capture.chain import Law, Positions, find_records, words
from agent.capture.input import File, Stream
from agent.capture.pcap import MAX_FRAME, linktype_of

SECTION = 0x0A0D0D0A
INTERFACE = 1
OLD_PACKET = 2
SIMPLE_PACKET = 3
PACKET = 6
MAGIC = b"\x0a\x0d\x0d\x0a"
ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
MAX_BLOCK = 16 << 20
"""No block is longer (as in tshark); a larger length is damage."""

_LEAST = {PACKET: 32, OLD_PACKET: 32, SIMPLE_PACKET: 16, INTERFACE: 20}
"""Block type -> fewest bytes a block of it has."""
_HEAD = {PACKET: 28, OLD_PACKET: 28, SIMPLE_PACKET: 12}
"""Block type -> bytes from the block's start to the frame's."""
_IF_NAME, _IF_TSRESOL, _IF_TSOFFSET = 2, 9, 14


@dataclass(frozen=True, slots=True)
class Port:
    """One interface of a section: its place in the source's list, cut of simple packets, and how its clock counts."""

    index: int
    snaplen: int
    resolution: int = 6
    offset: int = 0

    def nanoseconds(self, ticks: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Times of this interface as int64 nanoseconds since 1970; a time that does not fit wraps around."""
        shift = self.resolution & 0x7F
        if self.resolution & 0x80:
            times = _binary(ticks, shift)
        elif shift <= 9:
            times = (ticks * np.uint64(10 ** (9 - shift))).view(np.int64)
        elif shift <= 28:
            times = (ticks // np.uint64(10 ** (shift - 9))).view(np.int64)
        else:
            times = np.zeros(len(ticks), dtype=np.int64)
        return times + np.int64(_wrap(self.offset * 1_000_000_000))


def _wrap(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _binary(ticks: NDArray[np.uint64], shift: int) -> NDArray[np.int64]:
    """Ticks of 2**-shift s as nanoseconds, rounded down. The product of 94 bits is kept in two words."""
    whole, part = (ticks >> np.uint64(shift), ticks & np.uint64((1 << shift) - 1)) if shift < 64 else (0 * ticks, ticks)
    billion, half = np.uint64(1_000_000_000), np.uint64(32)
    low = (part & np.uint64(0xFFFFFFFF)) * billion
    high = (part >> half) * billion + (low >> half)
    if shift < 32:
        fraction = part * billion >> np.uint64(shift)
    else:
        fraction = high >> np.uint64(shift - 32) if shift < 96 else 0 * high
    return (whole * billion + fraction).view(np.int64)


class PcapngReader:
    """One pcapng file as blocks of frames. Its interfaces are appended to the source's list as they appear."""

    def __init__(self, source: File | Stream, interfaces: list[Interface]) -> None:
        self._input = source
        self._interfaces = interfaces
        self._ports: list[Port] = []
        self._law = Law("<u4", 4, 0, 12, 4)
        self._damage = ""  # found behind the frames handed out last
        if bytes(source.data[8:12]) not in ORDERS:
            raise CaptureError(f"{source.name}: not a capture: the section header has no byte order")

    def missing(self) -> str:
        """What is missing behind the last whole block, in words; empty where the file ends between two blocks."""
        rest = len(self._input.data) - self._input.place
        return f"the last {rest} bytes are not a whole block" if rest else ""

    def next_block(self) -> Block | None:
        """The frames of the next blocks (maybe none), or None where no whole block is there. Raises CaptureError."""
        source = self._input
        if self._damage:
            raise CaptureError(self._damage)
        if source.raw[source.place : source.place + 4] == MAGIC and not self._open_section():
            return None
        end = len(source.data) - self._law.header + 1
        if source.place >= end:
            return None
        starts = find_records(source.raw, source.data, self._law, source.place, end)
        view = words(source.data, self._law.dtype)
        types, lengths = view[starts], view[starts + 4].astype(np.int64) + 3 & ~3
        good = self._good(view, starts, types, lengths)
        if good == 0:
            return None
        source.place = int(starts[good - 1] + lengths[good - 1])
        return self._frames(view, starts[:good], types[:good], lengths[:good])

    # -- blocks ----------------------------------------------------------------------------------------------------

    def _open_section(self) -> bool:
        """Take the section header at `place`; False where it is not whole."""
        source = self._input
        head = source.raw[source.place : source.place + 16]
        if len(head) < 16:
            return False
        order = ORDERS.get(head[8:12])
        if order is None:
            raise CaptureError(f"{source.name}: damaged at byte {source.place}: a section without byte order")
        (length,) = struct.unpack_from(order + "I", head, 4)
        (major,) = struct.unpack_from(order + "H", head, 12)
        length = length + 3 & ~3
        if major != 1 or not 28 <= length <= MAX_BLOCK:
            raise CaptureError(
                f"{source.name}: damaged at byte {source.place}: section of {length} bytes, version {major}"
            )
        if source.place + length > len(source.data):
            return False
        self._law = Law(f"{order}u4", 4, 0, 12, 4)
        self._ports = []
        source.place += length
        return True

    def _good(self, view: NDArray[Any], starts: Positions, types: NDArray[Any], lengths: NDArray[np.int64]) -> int:
        """How many blocks from the first on are whole, sound and of this section. Raises where the first is unsound."""
        sections = np.flatnonzero(types == SECTION)
        whole = starts + lengths <= len(self._input.data)
        ends = view[np.where(whole & (lengths >= 12), starts + lengths - 4, starts + 4)].astype(np.int64) + 3 & ~3
        least = np.select([types == kind for kind in _LEAST], list(_LEAST.values()), 12)
        unsound = np.flatnonzero((lengths < least) | (lengths > MAX_BLOCK) | (ends != lengths))
        good = min(int(places[0]) if len(places) else len(starts) for places in (sections, unsound))
        if good == 0 and len(unsound) and unsound[0] == 0:
            what = f"a block of type {types[0]} and {lengths[0]} bytes, {ends[0]} at its end"
            raise CaptureError(f"{self._input.name}: damaged at byte {starts[0]}: {what}")
        return good if good == 0 or whole[good - 1] else good - 1

    def _add_interface(self, start: int, length: int) -> None:
        order = self._law.dtype[0]
        linktype, _, snaplen = struct.unpack_from(order + "HHI", self._input.raw, start + 8)
        options = self._options(start + 16, start + length - 4)
        name = options.get(_IF_NAME, b"").rstrip(b"\0").decode("utf-8", "replace") or Path(self._input.name).name
        resolution = options.get(_IF_TSRESOL, b"\x06")[:1] or b"\x06"
        offset = options.get(_IF_TSOFFSET, b"").ljust(8, b"\0")[:8]
        number = len(self._ports)  # within the section, as tshark counts
        self._ports.append(Port(len(self._interfaces), snaplen, resolution[0], struct.unpack(order + "q", offset)[0]))
        self._interfaces.append(Interface(name, linktype_of(linktype), number))

    def _options(self, place: int, end: int) -> dict[int, bytes]:
        """Options of a block: the first value of each code."""
        options: dict[int, bytes] = {}
        while place + 4 <= end:
            code, length = struct.unpack_from(self._law.dtype[0] + "HH", self._input.raw, place)
            if code == 0 or place + 4 + length > end:
                break
            options.setdefault(code, self._input.raw[place + 4 : place + 4 + length])
            place += 4 + (length + 3 & ~3)
        return options

    # -- frames ----------------------------------------------------------------------------------------------------

    def _frames(self, view: NDArray[Any], starts: Positions, types: NDArray[Any], lengths: NDArray[np.int64]) -> Block:
        """The frames among sound blocks of one section; interfaces described among them are added first."""
        described = types == INTERFACE
        known = len(self._ports) + np.cumsum(described)
        for at in np.flatnonzero(described):
            self._add_interface(int(starts[at]), int(lengths[at]))
        framed = np.flatnonzero((types == PACKET) | (types == SIMPLE_PACKET) | (types == OLD_PACKET))
        ids = self._ids(view, starts[framed], types[framed])
        framed = self._sound(framed, starts, ids < known[framed], "a frame on an interface that was not described")
        ids, simple = ids[: len(framed)], types[framed] == SIMPLE_PACKET
        head = np.where(simple, _HEAD[SIMPLE_PACKET], _HEAD[PACKET])
        room = lengths[framed] - head - 4
        wire_len, cap_len = self._lengths(view, starts[framed], simple, room)
        framed = self._sound(framed, starts, cap_len <= np.minimum(room, MAX_FRAME), "a frame longer than its block")
        count, starts = len(framed), starts[framed]
        ids, simple = ids[:count], simple[:count]
        ports = np.array([port.index for port in self._ports], dtype=np.uint16)
        return Block(
            data=self._input.data,
            offset=starts + head[:count],
            cap_len=cap_len[:count].astype(np.uint32),
            wire_len=wire_len[:count].astype(np.uint32),
            time=self._times(view, starts, simple, ids),
            iface=ports[ids],
            timeless=simple if simple.any() else None,
        )

    def _sound(
        self, framed: NDArray[np.int64], starts: Positions, fine: NDArray[np.bool_], what: str
    ) -> NDArray[np.int64]:
        """`framed` up to the first that is not fine, which is told once these frames are taken."""
        wrong = np.flatnonzero(~fine)
        if not len(wrong):
            return framed
        self._damage = f"{self._input.name}: damaged at byte {starts[framed[wrong[0]]]}: {what}"
        return framed[: wrong[0]]

    def _ids(self, view: NDArray[Any], starts: Positions, types: NDArray[Any]) -> NDArray[np.int64]:
        """The interface of each frame: simple packets are on the section's first, old packet blocks have 16 bits."""
        ids = view[starts + 8].astype(np.int64)
        ids[types == SIMPLE_PACKET] = 0
        old = types == OLD_PACKET
        if old.any():
            ids[old] = words(self._input.data, self._law.dtype[0] + "u2")[starts[old] + 8]
        return ids

    def _lengths(
        self, view: NDArray[Any], starts: Positions, simple: NDArray[np.bool_], room: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Length on the wire and length captured, which a simple packet block does not state."""
        wire_len = view[np.where(simple, starts + 8, starts + 24)].astype(np.int64)
        cap_len = view[np.where(simple, starts + 8, starts + 20)].astype(np.int64)
        if simple.any():
            snaplen = self._ports[0].snaplen or MAX_FRAME
            cap_len[simple] = np.minimum(np.minimum(cap_len[simple], snaplen), room[simple])
        return wire_len, cap_len

    def _times(
        self, view: NDArray[Any], starts: Positions, simple: NDArray[np.bool_], ids: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        timed = np.where(simple, starts, starts + 12)  # a simple packet's block is long enough to be read, then dropped
        ticks = view[timed].astype(np.uint64) << np.uint64(32) | view[np.where(simple, starts, starts + 16)]
        times = np.zeros(len(starts), dtype=np.int64)
        for number in np.unique(ids[~simple]):
            mine = (ids == number) & ~simple
            times[mine] = self._ports[number].nanoseconds(ticks[mine])
        return times
