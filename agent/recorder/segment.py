"""One file of the recorder as bytes: pcapng with nanoseconds, that says at its end what is in it. Pure.

    section header      the program, and in a comment the run: `run EPOCH`
    interface           before its first frame
    packet ...
    statistics          in between: so many frames are missing here, from when to when, and why
    statistics ...      at the end: one for each interface, its name, its frames, from when to when

A file that was cut where its writer was killed has no end; `scan` finds the same in its blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import protocol
from agent.capture import Block, Interface, pick
from agent.capture.chain import Law, find_records, words
from protocol import pcapng

HEADER_ROOM = 4096
"""Bytes at a file's begin that hold its header."""
TAIL_ROOM = 64 << 10
"""Bytes at a file's end that are looked at for its statistics."""
_LAW = Law("<u4", 4, 0, 12, 4)
_MAX_BLOCK = 1 << 20
_RUN = "run "
_RECEIVED, _MISSING, _START, _ENDED, _COMMENT = 4, 5, 2, 3, 1


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames that were captured and are not here: how many (None: nobody knows), between which times, and why."""

    first: int
    last: int
    frames: int | None
    reason: str


@dataclass(slots=True)
class Extent:
    """What a file holds: frames, their first and last time (ns since 1970), the interfaces' names, the run."""

    frames: int = 0
    first: int = 0
    last: int = 0
    interfaces: set[str] = field(default_factory=set)
    run: str = ""

    def add(self, frames: int, first: int, last: int, interface: str) -> None:
        """There are these too."""
        self.first, self.last = (min(self.first, first), max(self.last, last)) if self.frames else (first, last)
        self.frames += frames
        self.interfaces.add(interface)


# -- writing -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Face:
    """One interface of the file being written."""

    id: int
    name: str
    extent: Extent = field(default_factory=Extent)


class Writer:
    """The bytes of one file, as its frames come. `run` names the agent's run."""

    def __init__(self, run: str) -> None:
        self.header = pcapng.section(f"nodetap-agent {protocol.VERSION}", [_RUN + run])
        self.extent = Extent(run=run)
        self._faces: dict[int, _Face] = {}  # by place in the source's list

    def add(self, block: Block, interfaces: Sequence[Interface]) -> list[bytes]:
        """Some frames, with the interfaces that are new."""
        parts: list[bytes] = []
        present = np.unique(block.iface)
        for place in present.tolist():
            parts += self._introduce(place, interfaces[place])
        ids = np.zeros(int(present[-1]) + 1, dtype=np.uint16)
        for place in present.tolist():
            face = self._faces[place]
            ids[place] = face.id
            times = block.time[block.iface == place] if len(present) > 1 else block.time
            for extent in (self.extent, face.extent):
                extent.add(len(times), int(times.min()), int(times.max()), face.name)
        frames = pcapng.Frames(
            block.data, block.offset, block.cap_len, block.wire_len, block.time, ids[block.iface], block.vlan
        )
        return [*parts, pcapng.packets(frames).tobytes()]

    def _introduce(self, place: int, interface: Interface) -> list[bytes]:
        if place in self._faces:
            return []
        self._faces[place] = _Face(len(self._faces), interface.name)
        return [pcapng.interface(interface.name, interface.linktype)]

    def gap(self, gap: Gap, place: int, interface: Interface) -> list[bytes]:
        """Frames are missing before the next one, which is on that interface."""
        parts = self._introduce(place, interface)
        number = self._faces[place].id
        return [*parts, pcapng.statistics(number, gap.first, gap.last, dropped=gap.frames, comments=[gap.reason])]

    def end(self) -> bytes:
        """What says what is in the file."""
        return _statistics((face.id, face.name, face.extent) for face in self._faces.values())


def _statistics(faces: Iterable[tuple[int, str, Extent]]) -> bytes:
    return b"".join(
        pcapng.statistics(number, extent.first, extent.last, received=extent.frames, comments=[name])
        for number, name, extent in faces
        if extent.frames
    )


def split(block: Block, room: int) -> Iterator[Block]:
    """A block in pieces that take about `room` bytes in a file, and at least a frame each."""
    ends = np.cumsum(block.cap_len.astype(np.int64) + (pcapng.AROUND + 7))
    begin = 0
    while begin < len(block):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + room, side="right")))
        yield pick(block, slice(begin, end))
        begin = end


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """What the blocks of a file say. `end` is where the last whole block ends."""

    end: int = 0
    run: str = ""
    interfaces: list[Interface] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    block: Block = field(default_factory=lambda: _block(np.zeros(0, np.uint8), np.zeros(0, np.int64)))


def scan(raw: bytes) -> Found:
    """All frames of a file, or of the begin of one, up to the first block that is not whole or not sound."""
    found = Found()
    data = np.frombuffer(raw, dtype=np.uint8)
    starts, types, lengths = _chain(raw, data)
    if not len(starts) or types[0] != pcapng.SECTION or raw[8:12] != b"\x4d\x3c\x2b\x1a":
        return found
    good = len(starts)
    for at in np.flatnonzero(types != pcapng.PACKET).tolist():
        block = raw[starts[at] : starts[at] + lengths[at]]
        try:
            _take(found, int(types[at]), block)
        except (struct.error, ValueError):
            good = at
            break
    packets = np.flatnonzero(types[:good] == pcapng.PACKET)
    known = np.cumsum(types == pcapng.INTERFACE)[packets]
    frames = _block(data, starts[packets])
    room = lengths[packets] - pcapng.AROUND
    unsound = np.flatnonzero((room < frames.cap_len) | (frames.iface >= known))
    if len(unsound):
        good = int(packets[unsound[0]])
        frames = pick(frames, slice(0, int(unsound[0])))
    found.block = frames
    found.end = int(starts[good - 1] + lengths[good - 1]) if good else 0
    return found


def _chain(raw: bytes, data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """Where blocks start, their types and lengths: those before the first that is not whole or not sound."""
    parts: list[NDArray[np.int64]] = []
    place, end, view = 0, len(raw) - 11, words(data, "<u4")
    while place < end:
        starts = find_records(raw, data, _LAW, place, end)
        lengths = view[starts + 4].astype(np.int64)
        sound = (lengths >= 12) & (lengths <= _MAX_BLOCK) & (lengths % 4 == 0) & (starts + lengths <= len(raw))
        sound[sound] = view[starts[sound] + lengths[sound] - 4] == lengths[sound]
        wrong = np.flatnonzero(~sound)
        good = int(wrong[0]) if len(wrong) else len(starts)
        parts.append(starts[:good])
        if len(wrong) or not good:
            break
        place = int(starts[-1] + lengths[-1])
    starts = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    short = np.flatnonzero((view[starts] == pcapng.PACKET) & (view[starts + 4] < pcapng.AROUND))
    starts = starts[: short[0]] if len(short) else starts
    return starts, view[starts], view[starts + 4].astype(np.int64)


def _block(data: NDArray[np.uint8], starts: NDArray[np.int64]) -> Block:
    """The frames of packet blocks."""
    view = words(data, "<u4")
    time = view[starts + 12].astype(np.uint64) << np.uint64(32) | view[starts + 16]
    return Block(
        data=data,
        offset=starts + pcapng.HEAD,
        cap_len=view[starts + 20],
        wire_len=view[starts + 24],
        time=time.view(np.int64),
        iface=view[starts + 8].astype(np.uint16),
    )


def _take(found: Found, kind: int, block: bytes) -> None:
    """One block that is no frame. Raises ValueError or struct.error where it is not as we write it."""
    if kind == pcapng.SECTION:
        comments = [value.decode() for code, value in pcapng.options_of(block, 24) if code == _COMMENT]
        found.run = next((text.removeprefix(_RUN) for text in comments if text.startswith(_RUN)), "")
    elif kind == pcapng.INTERFACE:
        (linktype,) = struct.unpack_from("<H", block, 8)
        options = dict(reversed(pcapng.options_of(block, 16)))
        found.interfaces.append(Interface(options.get(2, b"").decode(), linktype))
    elif kind == pcapng.STATISTICS:
        options = dict(reversed(pcapng.options_of(block, 20)))
        if _RECEIVED not in options:
            missing = struct.unpack("<Q", options[_MISSING])[0] if _MISSING in options else None
            found.gaps.append(Gap(*_times(options), missing, options.get(_COMMENT, b"").decode()))


def _times(options: dict[int, bytes]) -> tuple[int, int]:
    return pcapng.time_of(options.get(_START, bytes(8))), pcapng.time_of(options.get(_ENDED, bytes(8)))


def extent_of(found: Found) -> tuple[Extent, bytes]:
    """What a file that was cut holds, by its blocks, and the statistics for its end."""
    whole, block, faces = Extent(run=found.run), found.block, []
    for number in np.unique(block.iface).tolist():
        times, name, extent = block.time[block.iface == number], found.interfaces[number].name, Extent()
        for each in (whole, extent):
            each.add(len(times), int(times.min()), int(times.max()), name)
        faces.append((number, name, extent))
    return whole, _statistics(faces)


def look(head: bytes, tail: bytes) -> Extent | None:
    """What a file holds, by its header and its end alone (`HEADER_ROOM`, `TAIL_ROOM`); None where it has no end."""
    found, extent, place = Found(), Extent(), len(tail)
    if len(head) < 12 or head[:4] != struct.pack("<I", pcapng.SECTION):
        return None
    _take(found, pcapng.SECTION, head[: struct.unpack_from("<I", head, 4)[0]])
    extent.run = found.run
    while place >= 12:
        (length,) = struct.unpack_from("<I", tail, place - 4)
        if not 20 <= length <= place or struct.unpack_from("<II", tail, place - length) != (pcapng.STATISTICS, length):
            break
        options = dict(reversed(pcapng.options_of(tail[place - length : place], 20)))
        if _RECEIVED not in options:
            break
        first, last = _times(options)
        extent.add(struct.unpack("<Q", options[_RECEIVED])[0], first, last, options.get(_COMMENT, b"").decode())
        place -= length
    else:
        return None  # more of them than we looked at
    return extent if extent.frames else None
