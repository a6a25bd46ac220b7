"""Capture files made by the tests, byte by byte, in every variant of the two formats."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from agent.capture import Block, CaptureError
from agent.capture.file import FileSource


class Frame(NamedTuple):
    """One frame as it is read: nanoseconds (None: timeless), length on the wire, bytes, interface number."""

    time: int | None
    wire_len: int
    data: bytes
    interface: int | None = None


def pcap(frames: Sequence[Frame], order: str = "<", unit: int = 1000, linktype: int = 1, magic: int = 0) -> bytes:
    """A classic file; `unit` nanoseconds to a tick of the fraction."""
    magic = magic or (0xA1B2C3D4 if unit == 1000 else 0xA1B23C4D)
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, linktype)]
    for time, wire_len, data, _ in frames:
        assert time is not None
        second, rest = divmod(time, 1_000_000_000)
        out.append(struct.pack(order + "IIII", second, rest // unit, len(data), wire_len) + data)
        if magic == 0xA1B2CD34:
            out.insert(-1, out[-1][:16] + struct.pack(order + "IHBB", 3, 8, 0, 0))
            out[-1] = data
    return b"".join(out)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(order: str = "<", linktype: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, snaplen) + options)


def packet(order: str, ticks: int, wire_len: int, data: bytes, number: int = 0, old: bool = False) -> bytes:
    where = struct.pack(order + "HH", number, 9) if old else struct.pack(order + "I", number)
    head = struct.pack(order + "IIII", ticks >> 32, ticks & 0xFFFFFFFF, len(data), wire_len)
    return block(order, 2 if old else 6, where + head + data + bytes(-len(data) % 4))


def simple(order: str, wire_len: int, data: bytes) -> bytes:
    return block(order, 3, struct.pack(order + "I", wire_len) + data)


def frames_of(block: Block, source: FileSource) -> list[Frame]:
    timeless = block.timeless if block.timeless is not None else [False] * len(block)
    return [
        Frame(
            None if timeless[i] else int(block.time[i]),
            int(block.wire_len[i]),
            block.data[block.offset[i] : block.offset[i] + block.cap_len[i]].tobytes(),
            source.interfaces[block.iface[i]].id,
        )
        for i in range(len(block))
    ]


def read(source: FileSource) -> tuple[list[Frame], str]:
    """All frames, and the error that ended the reading."""
    frames: list[Frame] = []
    try:
        source.open()
        while not source.done:
            if (block := source.next_block(1)) is not None:
                frames += frames_of(block, source)
    except CaptureError as error:
        return frames, str(error)
    finally:
        source.close()
    return frames, ""
