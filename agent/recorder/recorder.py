"""The thread that writes what is captured, and keeps what the files take within their bound.

The capture thread hands over a copy of each block and goes on; where the disk is too slow, or takes nothing, frames
are not recorded, and counted. What is missing is told to whoever reads the files.
"""

from __future__ import annotations

import errno
import struct
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agent.capture import Block, Interface, pick
from agent.recorder.folder import PAGE, RecorderFolder, room_of
from agent.recorder.segment import HEADER_ROOM, TAIL_ROOM, Extent, Gap, Writer, extent_of, look, scan, split
from agent.spool.folder import Locked
from agent.spool.turns import NAMED, Turns, named
from protocol import pcapng

BEHIND, FAILED = "disk_slow", "disk_failed"
LOST = (BEHIND, FAILED)
"""Why a captured frame is not recorded."""
GONE = "overwritten"
RESTARTED = "agent_restarted"
"""Further reasons why frames are not there."""
WAITING = 16 << 20
"""Bytes of frames that may wait for the disk."""
LARGEST, SMALLEST = 16 << 20, 64 << 10
"""Bytes of a file, whatever the bound: one is read as a whole, and as a whole it is deleted."""
PARTS = 16
"""Files that fill the bound."""
RETRY = 10.0
"""Seconds between two tries of a disk that failed."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One file, as it is now: replaced, never changed. `size` bytes of it are whole blocks."""

    number: int
    size: int
    extent: Extent


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Frames for the disk, the bytes they will take about, and what is missing in front of them."""

    block: Block
    size: int
    gap: Gap | None


@dataclass(slots=True)
class RecorderView:
    """What other threads may read: numbers and words."""

    bytes: int = 0
    bound: int = 0
    segments: int = 0
    waiting_bytes: int = 0
    failing: str = ""
    oldest: int = 0  # time of the first frame kept, ns since 1970; 0 where there is none
    recorded: int = 0
    written_bytes: int = 0
    removed: int = 0
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOST, 0))
    errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*NAMED, "other"), 0))


class Recorder(Turns):
    """Writes to one folder, at most `bound` bytes, until `finish`. `run` names this run of the agent.

    `interfaces` is the source's own list. `put` is the capture thread's; `look`, `segments` and `read` are anybody's.
    """

    def __init__(self, folder: RecorderFolder, bound: int, interfaces: Sequence[Interface], run: str, log: Any) -> None:
        super().__init__("recorder")
        self.segments: tuple[Segment, ...] = ()
        """Oldest first; all but the last are as they will ever be."""
        self.overwritten = 0
        """Time of the newest frame that was removed to make room, ns since 1970; 0 where none was."""
        self._folder, self._bound, self._interfaces, self._run, self._log = folder, bound, interfaces, run, log
        self._segment_bytes = max(SMALLEST, min(LARGEST, bound // PARTS))
        self._view = RecorderView(bound=bound)
        self._lock = threading.Lock()  # of the queue and of what is counted
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0
        self._gap: Gap | None = None  # of frames lost since the last ones that were queued
        self._ready = False
        self._trying = True  # the disk works, or is to be tried
        self._writer: Writer | None = None
        self._last = 0  # the newest file's number
        self._retry_at = 0.0

    # -- the capture thread ----------------------------------------------------------------------------------------

    def put(self, block: Block) -> None:
        """Record these frames, if the disk keeps up. Never raises, never waits for the disk."""
        if not len(block):
            return
        size = int(block.cap_len.sum(dtype=np.int64)) + pcapng.AROUND * len(block)
        with self._lock:
            reason = BEHIND if self._waiting + size > WAITING else "" if self._trying else FAILED
            if reason:
                self._lose(block, reason)
                return
        copy = own_copy(block)
        with self._lock:
            gap, self._gap = self._gap, None
            if gap is not None:
                gap = replace(gap, last=int(block.time.min()))
            self._queue.append(_Waiting(copy, size, gap))
            self._waiting += size
        self._news.set()

    def _lose(self, block: Block, reason: str) -> None:
        """Frames are not recorded. The lock is ours."""
        lost, first, last = len(block), int(block.time.min()), int(block.time.max())
        self._view.lost = {**self._view.lost, reason: self._view.lost[reason] + lost}
        gap = self._gap
        self._gap = Gap(
            min(gap.first, first) if gap else first, max(gap.last, last) if gap else last,
            lost + (gap.frames or 0 if gap else 0), gap.reason if gap else reason,
        )  # fmt: skip

    # -- life ------------------------------------------------------------------------------------------------------

    def turn(self, now: float, ending: bool = False) -> None:
        """Do once what there is to do, as far as the disk lets us."""
        if now < self._retry_at and not ending:
            return
        try:
            self._begin()
            self._trying = True
            while (item := self._next()) is not None:
                self._write(item)
            if ending:
                self._end_segment()
        except OSError as error:
            self._failed(now, named(error), error.strerror or str(error))
        except Locked as error:
            self._failed(now, "other", str(error))
        except Exception as error:
            self._log.exception("bug in the recorder")
            self._failed(now, "other", repr(error))

    def look(self) -> RecorderView:
        """The recorder at this moment."""
        segments = self.segments
        with self._lock:
            view = replace(self._view, waiting_bytes=self._waiting)
        oldest = min((segment.extent.first for segment in segments), default=0)
        sizes = sum(room_of(segment.size) for segment in segments)
        return replace(view, bytes=sizes, segments=len(segments), oldest=oldest)

    @property
    def ready(self) -> bool:
        """Whether it is known what earlier runs left."""
        return self._ready

    @property
    def gap(self) -> Gap | None:
        """Frames that are not recorded since the last ones that are."""
        with self._lock:
            return self._gap

    def read(self, segment: Segment) -> bytes:
        """The whole blocks of a file. Raises FileNotFoundError where it made room for others meanwhile, and OSError."""
        return self._folder.read_part(segment.number, 0, segment.size)

    # -- inside: trouble -------------------------------------------------------------------------------------------

    def _failed(self, now: float, name: str, reason: str) -> None:
        self._retry_at, self._writer, self._trying = now + RETRY, None, False
        if not self._view.failing:
            self._log.error("recorder failed; capture goes on", path=str(self._folder.path), reason=reason)
        with self._lock:
            self._view.failing = reason
            self._view.errors = {**self._view.errors, name: self._view.errors[name] + 1}
            for item in self._queue:
                self._lose(item.block, FAILED)
            self._queue.clear()
            self._waiting = 0

    def _works(self) -> None:
        if self._view.failing:
            self._log.info("recorder works again", was=self._view.failing)
            self._view.failing = ""

    # -- inside: what an earlier run left --------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._ready:
            return
        if not self._folder.opened:
            self._folder.open()
        numbers = self._folder.numbers()
        self._last = max([self._last, *numbers])
        sizes = {number: room_of(self._folder.size(number)) for number in numbers}
        while sizes and sum(sizes.values()) + TAIL_ROOM > self._bound:  # it was larger, or the last one is to be mended
            oldest = min(sizes)
            self._folder.delete(oldest)
            del sizes[oldest]
        found = [(number, self._find(number)) for number in sizes]
        for number, segment in found:
            if segment is None:
                self._folder.delete(number)
        self.segments = tuple(segment for _, segment in found if segment is not None)
        if self.segments and self.segments[0].number > 1:  # an earlier run removed files
            self.overwritten = max(self.overwritten, self.segments[0].extent.first)
        self._ready = True
        if self.segments:
            self._log.info("recorder goes on", path=str(self._folder.path), segments=len(self.segments))

    def _find(self, number: int) -> Segment | None:
        """What a file of an earlier run holds; one that was cut is mended. None where there is not a frame in it."""
        try:
            size = self._folder.size(number)
            head = self._folder.read_part(number, 0, HEADER_ROOM)
            extent = look(head, self._folder.read_part(number, max(0, size - TAIL_ROOM), size))
            if extent is not None:
                return Segment(number, size, extent)
            found = scan(self._folder.read_part(number, 0, 2 * LARGEST))
        except (OSError, ValueError, struct.error) as error:
            self._log.warning("recorder's file cannot be read", number=number, reason=str(error))
            return None
        extent, end = extent_of(found)
        if not extent.frames:
            return None
        self._folder.mend(number, found.end, end)
        self._log.warning("recorder's file was cut", number=number, frames=extent.frames, bytes=size - found.end)
        return Segment(number, self._folder.size(number), extent)

    # -- inside: writing -------------------------------------------------------------------------------------------

    def _next(self) -> _Waiting | None:
        with self._lock:
            return self._queue[0] if self._queue else None

    def _write(self, item: _Waiting) -> None:
        """The first of the queue, in one file or in several."""
        block, gap, done = item.block, item.gap, 0
        try:
            for piece in split(block, self._segment_bytes // 4):
                self._append(piece, gap)
                gap, done = None, done + len(piece)
        finally:
            with self._lock:
                self._queue.popleft()
                self._waiting -= item.size
                self._view.recorded += done
                if done < len(block):
                    self._lose(pick(block, slice(done, None)), FAILED)

    def _append(self, piece: Block, gap: Gap | None) -> None:
        writer = self._open()
        place = int(piece.iface[0])
        parts = writer.gap(gap, place, self._interfaces[place]) if gap is not None else []
        parts += writer.add(piece, self._interfaces)
        size = sum(map(len, parts))
        present = self.segments[-1]
        self._make_room(room_of(present.size + size) - room_of(present.size))
        written = self._folder.append(parts)
        with self._lock:
            self._view.written_bytes += written
            self._works()
        self._present(replace(present, size=present.size + written, extent=replace(writer.extent)))

    def _present(self, segment: Segment) -> None:
        """The newest file is this now."""
        self.segments = (*self.segments[:-1], segment)

    def _open(self) -> Writer:
        """The file to write to, a new one where the present one is large enough."""
        if self._writer is not None and self.segments[-1].size < self._segment_bytes:
            return self._writer
        self._end_segment()
        writer = Writer(self._run)
        self._make_room(room_of(len(writer.header)))
        self._last += 1
        self._folder.create(self._last, writer.header)
        self.segments = (*self.segments, Segment(self._last, len(writer.header), Extent()))
        self._writer = writer
        return writer

    def _end_segment(self) -> None:
        """Say in the present file what it holds: it is not written to any more."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        segment, end = self.segments[-1], writer.end()
        self._make_room(room_of(segment.size + len(end)) - room_of(segment.size))
        self._folder.append([end])
        self._folder.finish()
        self._present(replace(segment, size=segment.size + len(end)))

    def _make_room(self, size: int) -> None:
        """Delete the oldest files until `size` bytes more are within the bound."""
        while self.segments and sum(room_of(segment.size) for segment in self.segments) + size > self._bound:
            oldest = self.segments[0]
            if oldest.number == self._last and self._writer is not None:
                raise OSError(errno.ENOSPC, f"{self._bound} bytes are too few for this")
            self._folder.delete(oldest.number)
            self.overwritten = max(self.overwritten, oldest.extent.last)
            self.segments = self.segments[1:]
            with self._lock:
                self._view.removed += 1


def own_copy(block: Block) -> Block:
    """A block in memory of its own, without what lies between its frames where that is much."""
    lengths = block.cap_len.astype(np.int64)
    begin, end = int(block.offset.min()), int((block.offset + lengths).max())
    if end - begin <= 2 * int(lengths.sum()) + PAGE:
        data, offset = block.data[begin:end].copy(), block.offset - begin
    else:
        offset = np.cumsum(lengths) - lengths
        data = np.empty(int(lengths.sum()), dtype=np.uint8)
        pcapng.copy(block.data, block.offset.astype(np.int64), data, offset, lengths)
    rest = ("cap_len", "wire_len", "time", "iface", "vlan")
    arrays = {name: value.copy() for name in rest if (value := getattr(block, name)) is not None}
    return replace(block, data=data, offset=offset, **arrays)
