"""The body of a `Fetched`: raw frames in order of time, as packet blocks of pcapng that need only be put together.

    times     frames x i8    ns since 1970, never falling
    lengths   frames x u4    bytes of each block
    blocks    their sum      packet blocks without options; the interface is its place in the message's list

Beside its block a frame takes `AROUND_EACH` bytes. What comes from the wire is checked here whole: nobody behind it
looks at lengths again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import WrongMessage
from protocol.messages import Fetched
from protocol.pcapng import AROUND, MAX_FRAME, PACKET, Frames, copy, lengths_of, packets

AROUND_EACH = 12


@dataclass(frozen=True, slots=True)
class Part:
    """`n` packet blocks one after the other: `time` and `length` have shape (n,), `blocks` is uint8 and writable."""

    time: NDArray[np.int64]
    length: NDArray[np.int64]
    blocks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.time)

    @property
    def start(self) -> NDArray[np.int64]:
        """Where each block begins."""
        return np.cumsum(self.length) - self.length


def part_of(frames: Frames) -> Part:
    """Frames that are in order of time as packet blocks."""
    return Part(frames.time, lengths_of(frames), packets(frames))


def cut(part: Part, begin: int, end: int) -> Part:
    """The blocks from place `begin` up to place `end`; their memory is the part's."""
    starts = part.start
    first = int(starts[begin]) if begin < len(part) else len(part.blocks)
    last = int(starts[end - 1] + part.length[end - 1]) if end else 0
    return Part(part.time[begin:end], part.length[begin:end], part.blocks[first:last])


def joined(parts: Sequence[Part]) -> Part:
    """Several parts, at least one, as one in order of time; what is of one time stays in the order of the parts."""
    if len(parts) == 1:
        return parts[0]
    return ordered(
        Part(
            np.concatenate([part.time for part in parts]),
            np.concatenate([part.length for part in parts]),
            np.concatenate([part.blocks for part in parts]),
        )
    )


def ordered(part: Part) -> Part:
    """Blocks that come in any order, in that of time; what is of one time stays as it is."""
    if (part.time[1:] >= part.time[:-1]).all():
        return part
    order = np.argsort(part.time, kind="stable")
    length = part.length[order]
    out = np.empty(len(part.blocks), dtype=np.uint8)
    copy(part.blocks, part.start[order], out, np.cumsum(length) - length, length)
    return Part(part.time[order], length, out)


def pack(part: Part) -> bytes:
    """The body for a part; the interfaces of its blocks are places in the message's list."""
    arrays = (part.time.astype("<i8"), part.length.astype("<u4"), part.blocks)
    return b"".join(array.tobytes() for array in arrays)


def unpack(fetched: Fetched) -> Part:
    """The frames of a message. Raises WrongMessage where they are not as they should be."""
    count, body = fetched.frames, np.frombuffer(fetched.body, dtype=np.uint8)
    _check(12 * count <= len(body), f"{count} frames in {len(body)} bytes")
    time = body[: 8 * count].view("<i8").astype(np.int64)
    length = body[8 * count : 12 * count].view("<u4").astype(np.int64)
    _check(bool((length >= AROUND).all() and (length % 4 == 0).all()), "a block's length is wrong")
    blocks = body[12 * count :].copy()
    _check(int(length.sum()) == len(blocks), "blocks are not as long as they say")
    part = Part(time, length, blocks)
    _check_blocks(part, len(fetched.interfaces))
    return part


def _check_blocks(part: Part, interfaces: int) -> None:
    words: NDArray[Any] = part.blocks.view("<u4")
    at = part.start // 4
    _check(bool((words[at] == PACKET).all()), "a block is no packet")
    for place in (at + 1, at + part.length // 4 - 1):
        _check(bool((words[place] == part.length).all()), "a block does not say its length")
    cap_len = words[at + 5].astype(np.int64)
    _check(bool((cap_len <= MAX_FRAME + 4).all()), "a frame is too long")
    _check(bool((AROUND + (cap_len + 3 & ~3) == part.length).all()), "a block is not as long as its frame")
    _check(bool((words[at + 2] < interfaces).all()), "a frame on an interface that is not named")
    ticks = words[at + 3].astype(np.uint64) << np.uint64(32) | words[at + 4]
    _check(bool((ticks.view(np.int64) == part.time).all()), "a block says another time")
    _check(bool((part.time[1:] >= part.time[:-1]).all()), "frames are not in order of time")


def _check(condition: bool, detail: str) -> None:
    if not condition:
        raise WrongMessage("bad_key", detail)
