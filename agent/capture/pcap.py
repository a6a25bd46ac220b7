"""Classic pcap files.

Layout: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html. A header of 24 bytes, then per frame 16 bytes
(seconds, fraction, length captured, length on the wire) and the bytes captured.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from agent import kernel
from agent.capture import Block, CaptureError, Interface
from agent.capture.chain import ROOM, Law, find_records, pairs
from agent.capture.input import File, Stream

MAGICS: dict[bytes, tuple[str, int, int]] = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000, 16),
    b"\xa1\xb2\xc3\xd4": (">", 1000, 16),
    b"\x4d\x3c\xb2\xa1": ("<", 1, 16),
    b"\xa1\xb2\x3c\x4d": (">", 1, 16),
    b"\x34\xcd\xb2\xa1": ("<", 1000, 24),  # "modified" pcap: interface, protocol and packet type behind the lengths
    b"\xa1\xb2\xcd\x34": (">", 1000, 24),
}
"""First four bytes -> byte order, nanoseconds of one unit of the fraction, bytes of a record's header."""
HEADER = 24
MAX_FRAME = 262144
"""No frame is longer (as in tshark, libpcap); a larger length is damage."""
SAME_LINKTYPE = {12: 101, 14: 101}
"""LINKTYPE values that old writers used for raw IP."""


def linktype_of(value: int) -> int:
    """The link type in a file header's field, without the bits that say how long the frame check sequence is."""
    value &= 0x03FFFFFF
    return SAME_LINKTYPE.get(value, value)


class PcapReader:
    """One classic pcap file as blocks. `index` is its interface's place in the source's list."""

    def __init__(self, source: File | Stream, interfaces: list[Interface]) -> None:
        if len(source.data) < HEADER:
            raise CaptureError(f"{source.name}: not a capture: it ends within the file header")
        order, self._unit, header = MAGICS[bytes(source.data[:4])]
        self._law = Law(f"{order}u4", 8, header, header, 1)
        major, minor = struct.unpack_from(order + "HH", source.raw, 4)
        if major != 2:
            raise CaptureError(f"{source.name}: pcap version {major}.{minor} is not known")
        (network,) = struct.unpack_from(order + "I", source.raw, 20)
        self._input = source
        self._index = len(interfaces)
        interfaces.append(Interface(Path(source.name).name, linktype_of(network)))
        source.place = HEADER

    def missing(self) -> str:
        """What is missing behind the last whole frame, in words; empty where the file ends between two frames."""
        rest = len(self._input.data) - self._input.place
        return f"the last {rest} bytes are not a whole frame" if rest else ""

    def next_block(self) -> Block | None:
        """The next whole frames, or None where not even one is there. Raises CaptureError on damage."""
        return self._by_kernel() or self._by_numpy()

    def _by_kernel(self) -> Block | None:
        """As `next_block`, and None too where there is no kernel or the first record is damaged."""
        library, data = kernel.load(), self._input.data
        room = min(ROOM, (len(data) - self._input.place) // self._law.header)
        if library is None or room <= 0:
            return None
        rule = np.array([self._law.dtype[0] == ">", self._law.header, self._unit, MAX_FRAME], dtype=np.int64)
        offset, time = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        cap_len, wire_len = np.empty(room, dtype=np.uint32), np.empty(room, dtype=np.uint32)
        written = [array.ctypes.data for array in (offset, cap_len, wire_len, time)]
        place = self._input.place
        good = library.nodetap_pcap(data.ctypes.data, len(data), place, rule.ctypes.data, room, *written)
        if good == 0:
            return None
        self._input.place = int(offset[good - 1]) + int(cap_len[good - 1])
        iface = np.full(good, self._index, dtype=np.uint16)
        return Block(data, offset[:good], cap_len[:good], wire_len[:good], time[:good], iface)

    def _by_numpy(self) -> Block | None:
        """As `next_block`; it is also what tells why the kernel found nothing."""
        data, header = self._input.data, self._law.header
        end = len(data) - header + 1
        if self._input.place >= end:
            return None
        starts = find_records(self._input.raw, data, self._law, self._input.place, end)
        seconds, fraction = pairs(data, self._law.dtype, starts)
        cap_len, wire_len = pairs(data, self._law.dtype, starts + 8)
        good = self._good(starts, cap_len)
        if good == 0:
            return None
        self._input.place = int(starts[good - 1]) + header + int(cap_len[good - 1])
        time = seconds.astype(np.int64) * 1_000_000_000
        time += fraction.astype(np.int64) * self._unit
        return Block(
            data=data,
            offset=(starts + header)[:good],
            cap_len=cap_len[:good].astype(np.uint32, copy=False),
            wire_len=wire_len[:good].astype(np.uint32, copy=False),
            time=time[:good],
            iface=np.full(good, self._index, dtype=np.uint16),
        )

    def _good(self, starts: np.ndarray, cap_len: np.ndarray) -> int:
        """How many records from the first on are whole and possible."""
        absurd = np.flatnonzero(cap_len > MAX_FRAME)
        good = int(absurd[0]) if len(absurd) else len(starts)
        if good == 0:
            raise CaptureError(
                f"{self._input.name}: damaged at byte {starts[0]}: a frame of {cap_len[0]} bytes (at most {MAX_FRAME})"
            )
        whole = int(starts[good - 1]) + self._law.header + int(cap_len[good - 1]) <= len(self._input.data)
        return good if whole else good - 1
