"""Made-up packets through a pipeline that is thrown away, before there are real ones.

What the first packets would wait for is then there: modules and tables that are made on first use, the compiled kernel,
memory asked of the system. On a busy node that takes longer than a ring can wait.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np

from agent.assemble import pipeline_of
from agent.capture import Block, Interface
from agent.capture.own import OwnTraffic
from agent.seal import MAX_ROWS

_MANY = 8192
"""Frames of a block, about as many as a ring hands out."""
_QUERY = bytes.fromhex("0001 0100 0001 0000 0000 0000 0161 0162 00 0001 0001")
_REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def warm_up(l7: str, log: Any) -> None:
    """Decode, read (`--l7`), count and pack one batch of packets: tens of milliseconds. Errors are logged."""
    source: Any = SimpleNamespace(interfaces=[Interface("", 1)], live=False)
    pipeline = pipeline_of(source, "warm-up", 0, log, l7=l7)
    own = OwnTraffic(source.interfaces, [("192.0.2.1", 1)])
    plain = [_udp(7, b"\0" * 18), _tcp(7, b""), _tcp(7, b"\0" * 18)]
    for block in (_block([_udp(53, _QUERY), _tcp(80, _REQUEST)], 2), *[_block(plain, _MANY)] * (MAX_ROWS // _MANY)):
        pipeline.feed(own.drop(block))
        pipeline.tick(0)
    pipeline.finish()


def _block(frames: list[bytes], rows: int) -> Block:
    """So many frames, which lie over one another."""
    lengths = np.array([len(frame) for frame in frames], dtype=np.uint32)
    which = np.arange(rows) % len(frames)
    return Block(
        data=np.frombuffer(b"".join(frames), dtype=np.uint8),
        offset=(np.cumsum(lengths, dtype=np.int64) - lengths)[which],
        cap_len=lengths[which],
        wire_len=lengths[which],
        time=np.arange(rows),
        iface=np.zeros(rows, dtype=np.uint16),
    )


def _udp(port: int, payload: bytes) -> bytes:
    return _frame(17, struct.pack(">4H", 4096, port, 8 + len(payload), 0) + payload)


def _tcp(port: int, payload: bytes) -> bytes:
    return _frame(6, struct.pack(">2H2I2B3H", 4096, port, 1, 1, 0x50, 0x18, 512, 0, 0) + payload)


def _frame(protocol: int, segment: bytes) -> bytes:
    """Ethernet and IPv4, between addresses of documentation (RFC 5737)."""
    head = struct.pack(">2B3H2BH", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol, 0)
    return bytes(12) + b"\x08\x00" + head + bytes([192, 0, 2, 2, 192, 0, 2, 3]) + segment
