"""Captures that tests make for themselves: numbered frames, many of them, quickly."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write_pcap(path: Path, frames: int, *, flows: int = 1000, start_s: int = 1_700_000_000, gap_us: int = 10) -> Path:
    """A classic pcap of `frames` TCP/IPv4 frames of 60 bytes; frame n (from 1) has TCP sequence number n.

    Time advances by `gap_us` a frame; the frames belong to `flows` connections in turn.
    """
    size = 60
    record = np.zeros((frames, 16 + size), dtype=np.uint8)
    n = np.arange(frames, dtype=np.int64)
    micros = n * gap_us
    header = record[:, :16].view("<u4")
    header[:, 0] = start_s + micros // 1_000_000
    header[:, 1] = micros % 1_000_000
    header[:, 2] = header[:, 3] = size
    frame = record[:, 16:]
    frame[:, :14] = np.frombuffer(bytes.fromhex("020000000001020000000002") + b"\x08\x00", dtype=np.uint8)
    frame[:, 14:34] = np.frombuffer(
        struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0x4000, 64, 6, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])),
        dtype=np.uint8,
    )
    frame[:, 34:36] = (1024 + n % flows).astype(">u2").reshape(-1, 1).view(np.uint8)
    frame[:, 36:38] = np.frombuffer(struct.pack("!H", 80), dtype=np.uint8)
    frame[:, 38:42] = (n + 1).astype(">u4").reshape(-1, 1).view(np.uint8)
    frame[:, 46:50] = np.frombuffer(struct.pack("!BBH", 0x50, 0x10, 512), dtype=np.uint8)
    with path.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        out.write(record.tobytes())
    return path
