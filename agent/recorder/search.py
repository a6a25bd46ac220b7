"""One question to the recorder's files, answered in parts: the hub asks for the next one when it has room.

Files are read one at a time and closed again, in the order of their first frames, so that what is still to come is
never much earlier than what was said, also where the clock was set back.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from agent.capture import Block, Interface, pick
from agent.recorder.match import Matcher
from agent.recorder.recorder import GONE, RESTARTED, Recorder, Segment, own_copy
from agent.recorder.segment import Gap, scan
from protocol.messages import Fetch, Fetched
from protocol.parts import AROUND_EACH, pack, part_of
from protocol.pcapng import Frames, lengths_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

PATIENCE = 0.3
"""Seconds after which a part goes out without a frame, so that the hub knows we are at it."""
DAMAGED, UNREADABLE, SKIPPED = "damaged", "unreadable", "not_decoded"
_NEVER = (1 << 63) - 1


class Search:
    """The frames that the first `Fetch` of a question means, as they lie in the files at that moment."""

    def __init__(self, recorder: Recorder, first: Fetch, agent: str) -> None:
        """Raises ValueError where the filter is wrong."""
        self._recorder, self._since, self._until = recorder, first.since, first.until
        self._matcher = Matcher(first.filter, agent)
        segments = [segment for segment in recorder.segments if segment.extent.frames]
        self._kept = min((segment.extent.first for segment in segments), default=0)
        self._gaps = list(self._inside(_between(segments)))
        if recorder.gap is not None:
            self._gaps += self._inside([recorder.gap])
        chosen = (s for s in segments if s.extent.last >= self._since and s.extent.first < self._until)
        self._todo = sorted(chosen, key=lambda segment: (segment.extent.first, segment.number))
        self._block: Block | None = None  # what is left of the file that is being handed out
        self._interfaces: list[Interface] = []

    def part(self, fetch: Fetch) -> Fetched:
        """The next part: frames of one file, or none where none were found within `PATIENCE` seconds."""
        deadline = monotonic() + PATIENCE
        while self._block is None and self._todo:
            self._open(self._todo.pop(0))
            if monotonic() > deadline:
                break
        frames, names = self._take(fetch)
        gaps, self._gaps = self._gaps, []
        return Fetched(
            fetch.id,
            fetch.part,
            frames=len(frames.time),
            body=pack(part_of(frames)),
            interfaces=names,
            reached=self._reached(),
            last=int(self._block is None and not self._todo),
            gaps=[[g.first, g.last, -1 if g.frames is None else g.frames, g.reason] for g in gaps],
            kept=self._kept,
            overwritten=self._recorder.overwritten,
        )

    def _open(self, segment: Segment) -> None:
        extent = segment.extent
        try:
            found = scan(self._recorder.read(segment))
        except FileNotFoundError:
            self._gaps += self._inside([Gap(extent.first, extent.last, extent.frames, GONE)])
            return
        except OSError:
            self._gaps += self._inside([Gap(extent.first, extent.last, extent.frames, UNREADABLE)])
            return
        self._gaps += self._inside(found.gaps)
        missing = extent.frames - len(found.block)
        if missing > 0:
            self._gaps += self._inside([Gap(extent.first, extent.last, missing, DAMAGED)])
        block = self._matcher.frames(found, self._since, self._until)
        if self._matcher.skipped:
            self._gaps += self._inside([Gap(extent.first, extent.last, self._matcher.skipped, SKIPPED)])
        if len(block):
            self._block, self._interfaces = own_copy(block), found.interfaces

    def _take(self, fetch: Fetch) -> tuple[Frames, list[list[str | int]]]:
        """The first frames of what is left, as many as fit, and the interfaces they are on."""
        block = self._block
        if block is None:
            empty = np.zeros(0, dtype=np.int64)
            return Frames(np.zeros(0, dtype=np.uint8), empty, empty, empty, empty, empty), []
        sizes = np.cumsum(lengths_of(_frames_of(block, block.iface)) + AROUND_EACH)
        count = max(1, min(int(np.searchsorted(sizes, fetch.size, side="right")), fetch.frames))
        taken = pick(block, slice(0, count))
        self._block = pick(block, slice(count, None)) if count < len(block) else None
        present, places = np.unique(taken.iface, return_inverse=True)
        names: list[list[str | int]] = [
            [self._interfaces[number].name, self._interfaces[number].linktype] for number in present.tolist()
        ]
        return _frames_of(taken, places), names

    def _reached(self) -> int:
        """Nothing earlier comes later."""
        ahead = [segment.extent.first for segment in self._todo[:1]]
        if self._block is not None:
            ahead.append(int(self._block.time[0]))
        return min(ahead, default=_NEVER)

    def _inside(self, gaps: list[Gap]) -> Iterator[Gap]:
        """The gaps that concern the times asked about."""
        return (gap for gap in gaps if gap.last >= self._since and gap.first < self._until)


def _between(segments: list[Segment]) -> list[Gap]:
    """Where one run of the agent ended and the next began, nobody recorded."""
    return [
        Gap(one.extent.last, other.extent.first, None, RESTARTED)
        for one, other in pairwise(segments)
        if one.extent.run != other.extent.run and one.extent.last < other.extent.first
    ]


def _frames_of(block: Block, places: NDArray[np.integer]) -> Frames:
    return Frames(block.data, block.offset, block.cap_len, block.wire_len, block.time, places)
