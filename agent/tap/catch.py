"""What one capture holds until the hub fetches it: packet blocks within a bound, and what did not fit. Pure."""

from __future__ import annotations

from collections import deque

import numpy as np

from agent.capture import Block
from agent.recorder.segment import Gap
from protocol.parts import AROUND_EACH, Part, cut, joined, part_of
from protocol.pcapng import Frames

BOUND = 8 << 20
"""Bytes of packet blocks that wait to be fetched: a fifth of a second of a full gigabit link without a filter."""
EARLIER_NS = 200_000_000
"""A frame is here so long after its time, where there is nothing before it: rings hand frames over sooner."""
LATE = "fetched_late"
"""Why frames that had been found are not there: more waited than may."""


def blocks_of(block: Block) -> Part:
    """Frames as packet blocks in order of time; their interfaces are places in the source's list."""
    order = None if (block.time[1:] >= block.time[:-1]).all() else np.argsort(block.time, kind="stable")
    arrays = (block.offset, block.cap_len, block.wire_len, block.time, block.iface)
    offset, cap_len, wire_len, time, iface = arrays if order is None else (array[order] for array in arrays)
    vlan = block.vlan if block.vlan is None or order is None else block.vlan[order]
    return part_of(Frames(block.data, offset, cap_len, wire_len, time.astype(np.int64), iface, vlan))


class Catch:
    """The frames of one capture that began at `begun` (ns since 1970).

    `reached` is the time up to which everything has been looked at, `bytes` what waits, `caught` and `lost` are frames.
    """

    def __init__(self, begun: int) -> None:
        self.begun = begun
        self.reached = begun - EARLIER_NS
        self.bytes = self.caught = self.lost = 0
        self._parts: deque[Part] = deque()
        self._gaps: list[Gap] = []
        self._losing = False  # whether nothing was caught since the last gap

    def add(self, part: Part) -> None:
        """Frames were found, at least one: all of them are held, or none."""
        size = len(part.blocks) + AROUND_EACH * len(part)
        if self.bytes + size > BOUND:
            self.lose(Gap(int(part.time[0]), int(part.time[-1]), len(part), LATE))
            return
        self._parts.append(part)
        self.bytes += size
        self.caught += len(part)
        self._losing = False

    def lose(self, gap: Gap) -> None:
        """Frames are missing. One gap after the other for the same reason is one gap."""
        self.lost += gap.frames or 0
        last = self._gaps[-1] if self._gaps and self._losing else None
        if last is not None and last.reason == gap.reason:
            frames = (last.frames or 0) + (gap.frames or 0)
            self._gaps[-1] = Gap(min(last.first, gap.first), max(last.last, gap.last), frames, gap.reason)
        else:
            self._gaps.append(gap)
        self._losing = True

    def take(self, size: int, frames: int) -> tuple[Part | None, list[Gap]]:
        """The first frames, at least one and as many as fit, in order of time, and the gaps there were."""
        gaps, self._gaps, self._losing = self._gaps, [], False
        taken: list[Part] = []
        while self._parts and size > 0 and frames > 0:
            part = self._parts[0]
            ends = np.cumsum(part.length + AROUND_EACH)
            count = min(int(np.searchsorted(ends, size, side="right")), frames)
            count = max(count, 0 if taken else 1)
            if not count:
                break
            taken.append(cut(part, 0, count))
            self.bytes -= int(ends[count - 1])
            size, frames = size - int(ends[count - 1]), frames - count
            if count < len(part):
                self._parts[0] = cut(part, count, len(part))
                break
            self._parts.popleft()
        return (joined(taken) if taken else None), gaps

    @property
    def promise(self) -> int:
        """Nothing earlier comes later, as far as is known."""
        return min([self.reached, *(int(part.time[0]) for part in self._parts)])
