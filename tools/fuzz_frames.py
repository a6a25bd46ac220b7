"""Mutated frames for `tools/fuzz.py`: whole blocks of them, made from the frames of captures with numpy.

Frames come from `Seeds`. Each is one of them or the head of one before another, with bits flipped, words replaced by
lengths and limits, eight bytes copied from anywhere, cut at the end, its length on the wire true or a lie, and now and
then under another link type. Half the blocks are runs of consecutive frames, so that connections are met in order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.capture import Block, CaptureError, Interface
from agent.capture.file import FileSource

Bytes: TypeAlias = "NDArray[np.uint8]"
Ints: TypeAlias = "NDArray[np.int64]"

LINKTYPES = (0, 1, 9, 12, 50, 51, 101, 104, 108, 113, 117, 219, 228, 229, 276)
SLOW = (127, 192)
"""Link types of the fallback dissector: few frames, each takes a thousand times as long."""
INTERFACES = [Interface(f"link{number}", number) for number in (*LINKTYPES, *SLOW)]
LONGEST = 4096
"""Bytes of a seed that are used."""
GAP = 8
"""Most bytes between two frames of a block."""

_WORDS = np.array([0, 1, 2, 7, 8, 19, 20, 39, 40, 41, 255, 256, 1500, 1501, 0x7FFF, 0x8000, 0xFFF0, 0xFFFF], ">u2")
_BYTES = np.array([0, 1, 4, 6, 0x0F, 0x11, 0x40, 0x44, 0x45, 0x46, 0x4F, 0x60, 0x7F, 0x80, 0xFE, 0xFF], np.uint8)
_CUTS = np.array([14, 16, 18, 20, 22, 26, 34, 38, 42, 50, 54, 62, 66], np.int64)


class Seeds(NamedTuple):
    """Frames of captures, one after the other in `data`; `iface` is each one's place in INTERFACES."""

    data: Bytes
    offset: Ints
    length: Ints
    iface: Ints

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Seeds:
        """All frames of these captures whose link type is in INTERFACES."""
        places = {interface.linktype: place for place, interface in enumerate(INTERFACES)}
        parts, ifaces = [], []
        for path in paths:
            for linktype, frame in _frames(path):
                if frame and linktype in places:
                    parts.append(frame[:LONGEST])
                    ifaces.append(places[linktype])
        length = np.array([len(part) for part in parts], np.int64)
        data = np.frombuffer(b"".join(parts), np.uint8)
        return cls(data, np.cumsum(length) - length, length, np.array(ifaces, np.int64))


def _frames(path: Path) -> Iterable[tuple[int, bytes]]:
    """Link type and bytes of every frame, up to where the file is damaged."""
    source = FileSource([path])
    try:
        source.open()
        while (block := source.next_block(1.0)) is not None:
            for at, size, iface in zip(block.offset, block.cap_len, block.iface, strict=True):
                yield source.interfaces[iface].linktype, block.data[at : at + size].tobytes()
    except CaptureError:
        return
    finally:
        source.close()


def mutated(seeds: Seeds, rng: np.random.Generator, n: int) -> Block:
    """A block of `n` mutated frames. What lies between them in `data` is zero; nothing lies behind the last."""
    order = (rng.integers(len(seeds.offset)) + np.arange(n)) % len(seeds.offset)
    chosen = order if rng.random() < 0.5 else rng.integers(0, len(seeds.offset), n)
    data, offset, size = _lay(seeds, rng, chosen)
    _mutate(seeds, rng, data, offset, size)
    cap, wire = _lengths(rng, size)
    iface = np.where(rng.random(n) < 0.97, seeds.iface[chosen], rng.integers(0, len(LINKTYPES), n))
    iface[rng.random(n) < 0.001] = len(LINKTYPES) + int(rng.integers(len(SLOW)))
    data, offset = _repack(data, offset, cap)
    time = 1_700_000_000_000_000_000 + np.cumsum(rng.choice([0, 1, 1000, 1_000_000, -5000], n)) * 100
    time[rng.random(n) < 0.001] = rng.choice([0, -(2**63), 2**63 - 1, 2**62])
    timeless = rng.random(n) < 0.01 if rng.random() < 0.1 else None
    vlan = np.where(rng.random(n) < 0.5, 0x81000000 | rng.integers(0, 65536, n), -1) if rng.random() < 0.1 else None
    return Block(
        data, offset, cap.astype(np.uint32), wire.astype(np.uint32), time, iface.astype(np.uint16), timeless, vlan
    )


def _lay(seeds: Seeds, rng: np.random.Generator, chosen: Ints) -> tuple[Bytes, Ints, Ints]:
    """The frames, one in eight behind the head of another one: their bytes, where each begins, its size."""
    n = len(chosen)
    other = rng.integers(0, len(seeds.offset), n)
    head = np.minimum(rng.choice(_CUTS, n), seeds.length[other])
    head[rng.random(n) >= 0.125] = 0
    cut = np.where(head > 0, np.minimum(rng.choice(np.append(_CUTS, 0), n), seeds.length[chosen]), 0)
    starts = np.stack([seeds.offset[other], seeds.offset[chosen] + cut], 1).ravel()
    sizes = np.stack([head, seeds.length[chosen] - cut], 1).ravel()
    ends = np.cumsum(sizes)
    data = seeds.data[np.repeat(starts - (ends - sizes), sizes) + np.arange(ends[-1])]
    return data, (ends - sizes)[::2], sizes[::2] + sizes[1::2]


def _mutate(seeds: Seeds, rng: np.random.Generator, data: Bytes, offset: Ints, size: Ints) -> None:
    """Change bytes in place, most of them in headers: places are drawn with a cube."""
    some = np.flatnonzero((size > 8) & (rng.random(len(size)) < 0.85))
    for count in rng.integers(0, 3, 4) * len(some) // 4:
        rows = rng.choice(some, count)
        at = offset[rows] + ((size[rows] - 8) * rng.random(count) ** 3).astype(np.int64)
        what = rng.integers(4)
        if what == 0:
            data[at] ^= (1 << rng.integers(0, 8, count)).astype(np.uint8)
        elif what == 1:
            data[at] = np.where(rng.random(count) < 0.5, rng.choice(_BYTES, count), rng.integers(0, 256, count))
        elif what == 2:
            words = rng.choice(_WORDS, count).view(np.uint8).reshape(-1, 2)
            data[at], data[at + 1] = words[:, 0], words[:, 1]
        else:
            source = rng.integers(0, len(seeds.data) - 8, count)
            for i in range(8):
                data[at + i] = seeds.data[source + i]


def _lengths(rng: np.random.Generator, size: Ints) -> tuple[Ints, Ints]:
    """Captured lengths, one in seven cut; lengths on the wire: the true one, the captured one, or any."""
    n = len(size)
    cap = np.where(rng.random(n) < 0.15, (size * rng.random(n)).astype(np.int64), size)
    wire = np.where(rng.random(n) < 0.5, size, cap)
    return cap, np.where(rng.random(n) < 0.01, rng.integers(0, 2**32, n), wire)


def _repack(data: Bytes, offset: Ints, cap: Ints) -> tuple[Bytes, Ints]:
    """Close up what was cut off the frames, and leave gaps of different sizes between them."""
    gap = np.arange(len(cap)) % (GAP + 1)
    ends = np.cumsum(gap + cap)
    starts = ends - cap
    out = np.zeros(int(ends[-1]), np.uint8)
    within = np.arange(int(cap.sum())) - np.repeat(np.cumsum(cap) - cap, cap)
    out[np.repeat(starts, cap) + within] = data[np.repeat(offset, cap) + within]
    return out, starts


def gaps(block: Block) -> NDArray[np.bool_]:
    """Which bytes of `data` are no frame's."""
    change = np.zeros(len(block.data) + 1, np.int64)
    np.add.at(change, block.offset, 1)
    np.add.at(change, block.offset + block.cap_len, -1)
    free: NDArray[np.bool_] = np.cumsum(change[:-1]) == 0
    return free


def write_pcapng(path: Path, blocks: Iterable[Block]) -> None:
    """Write frames of all link types into one file (draft-ietf-opsawg-pcapng)."""
    parts = [_block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))]
    parts += [_block(1, struct.pack("<HHI", interface.linktype, 0, 0)) for interface in INTERFACES]
    for block in blocks:
        for i in range(len(block)):
            start, size = int(block.offset[i]), int(block.cap_len[i])
            ticks = max(int(block.time[i]), 0) // 1000
            head = struct.pack("<IIIII", block.iface[i], ticks >> 32, ticks & 0xFFFFFFFF, size, int(block.wire_len[i]))
            parts.append(_block(6, head + block.data[start : start + size].tobytes() + bytes(-size % 4)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts))


def _block(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)
