"""The thread that looks at what is captured while somebody captures live; there is none while nobody does.

The capture thread hands over a copy of each block and goes on. Where the thread is behind, or the agent is under such
pressure that packets get no rows, frames are not looked at: they are counted, and told as a gap.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, time_ns
from typing import Any

from agent.capture import Block, Interface, pick
from agent.recorder.recorder import own_copy
from agent.recorder.segment import Gap
from agent.tap.catch import EARLIER_NS, LATE, Catch, blocks_of
from agent.tap.sight import Sight, Wanted
from protocol.parts import Part

WAITING = 8 << 20
"""Bytes of frames that may wait to be looked at."""
MOST_OPEN = 4
"""Captures at once."""
TICK = 0.5
"""Seconds between two looks at the leases."""
BUSY, KERNEL, SKIPPED = "agent_busy", "kernel_dropped", "not_decoded"
LOST = (LATE, BUSY, KERNEL, SKIPPED)
"""Why a frame may be missing from a capture."""


@dataclass(slots=True, eq=False)
class Capture:
    """One capture. `until` is when it ends if nobody asks on (`monotonic`); `news` is called, on any thread, when there
    may be more to take."""

    wanted: Wanted
    catch: Catch
    until: float
    news: Callable[[], None]
    ended: str = ""


@dataclass(frozen=True, slots=True)
class _Item:
    """A block to look at, or none; the time up to which nothing comes later; what the kernel has dropped so far."""

    block: Block | None
    size: int
    reached: int
    dropped: int
    unseen: Gap | None  # frames before it that are not looked at


@dataclass(slots=True)
class TapView:
    """What other threads may read: numbers."""

    captures: int = 0
    waiting_bytes: int = 0
    caught: int = 0
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOST, 0))


class Tap:
    """Live captures of one agent. `interfaces` is the source's own list, `run` names this run of the agent.

    `put` is the capture thread's; the others are anybody's.
    """

    def __init__(self, interfaces: list[Interface], run: str, log: Any) -> None:
        self._interfaces, self._run, self._log = interfaces, run, log
        self._lock = threading.Condition()  # of everything below
        self._captures: list[Capture] = []
        self._queue: deque[_Item] = deque()
        self._waiting = 0
        self._unseen: Gap | None = None
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self._view = TapView()
        self._told = False

    # -- the capture thread ----------------------------------------------------------------------------------------

    def put(self, block: Block | None, dropped: int, hurry: bool) -> None:
        """What came of a look for frames. `dropped` by the kernel so far; in a `hurry` frames are not looked at."""
        if not self._captures:
            return
        reached = time_ns() - EARLIER_NS
        if block is None or not len(block):
            self._enqueue(None, 0, reached, dropped)
            return
        reached = self._after(block, reached)
        size = int(block.cap_len.sum())
        with self._lock:
            unseen = hurry or self._waiting + size > WAITING
            if unseen:
                self._miss(block)
        self._enqueue(None if unseen else own_copy(block), 0 if unseen else size, reached, dropped)

    def _after(self, block: Block, reached: int) -> int:
        """The time before which nothing comes behind this block. Each link type has a ring of its own."""
        newest = int(block.time.max()) + 1
        return newest if len({face.linktype for face in self._interfaces}) == 1 else min(newest, reached)

    def _miss(self, block: Block) -> None:
        first, last, frames = int(block.time.min()), int(block.time.max()), len(block)
        gap = self._unseen
        if gap is not None:
            first, last, frames = min(first, gap.first), max(last, gap.last), frames + (gap.frames or 0)
        self._unseen = Gap(first, last, frames, BUSY)

    def _enqueue(self, block: Block | None, size: int, reached: int, dropped: int) -> None:
        with self._lock:
            last = self._queue[-1] if self._queue else None
            if last is not None and block is None is last.block and last.unseen is None:  # one without news is enough
                self._queue.pop()
            unseen, self._unseen = self._unseen, None
            self._queue.append(_Item(block, size, reached, dropped, unseen))
            self._waiting += size
            self._lock.notify()

    # -- anybody ---------------------------------------------------------------------------------------------------

    def open(self, wanted: Wanted, lease: float, news: Callable[[], None], dropped: int) -> Capture | None:
        """Begin to capture; None where as many run as may. `dropped` by the kernel so far."""
        with self._lock:
            if len(self._captures) >= MOST_OPEN:
                return None
            capture = Capture(wanted, Catch(time_ns()), monotonic() + lease, news)
            if not self._captures:
                self._queue.clear()
                self._waiting, self._unseen, self._dropped = 0, None, dropped
            self._captures.append(capture)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_thread, name="tap", daemon=True)
                self._thread.start()
            return capture

    def close(self, capture: Capture, reason: str) -> None:
        """End it. What it holds is gone."""
        with self._lock:
            if capture.ended:
                return
            capture.ended = reason
            self._captures.remove(capture)
            self._view.caught += capture.catch.caught
            self._lock.notify()
        catch = capture.catch
        self._log.info("live capture ended", reason=reason, frames=catch.caught, lost=catch.lost)
        capture.news()

    def take(self, capture: Capture, size: int, frames: int) -> tuple[Part | None, list[Gap], int]:
        """Frames, gaps, and the time before which nothing comes later."""
        with self._lock:
            part, gaps = capture.catch.take(size, frames)
            return part, gaps, capture.catch.promise

    def look(self) -> TapView:
        """The tap at this moment."""
        with self._lock:
            running = sum(capture.catch.caught for capture in self._captures)
            waiting = self._waiting + sum(capture.catch.bytes for capture in self._captures)
            view = self._view
            return TapView(len(self._captures), waiting, view.caught + running, dict(view.lost))

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run_thread(self) -> None:
        sight = Sight(self._interfaces, self._run)
        while True:
            with self._lock:
                if not self._queue and self._captures:
                    self._lock.wait(TICK)
                if not self._captures:
                    self._thread = None
                    self._queue.clear()
                    self._waiting = 0
                    return
                item = self._queue.popleft() if self._queue else None
                captures = list(self._captures)
            if item is not None:
                self._look_at(item, captures, sight)
            self._expire(captures)

    def _expire(self, captures: list[Capture]) -> None:
        now = monotonic()
        for capture in captures:
            if now > capture.until:
                self.close(capture, "nobody asks for it any more")

    def _look_at(self, item: _Item, captures: list[Capture], sight: Sight) -> None:
        gaps = self._gaps_before(item, captures)
        skipped = sight.skipped
        found: list[Part | None] = [None] * len(captures)
        if item.block is not None:
            try:
                found = _found(item.block, captures, sight)
            except Exception:
                if not self._told:  # the next block is likely to bring it again
                    self._told = True
                    self._log.exception("bug in a live capture")
                gaps.append(_whole(item.block, len(item.block)))
            if sight.skipped > skipped:
                gaps.append(_whole(item.block, sight.skipped - skipped))
        with self._lock:
            self._waiting = max(0, self._waiting - item.size)
            for capture, part in zip(captures, found, strict=True):
                self._enter(capture, part, gaps, item.reached)
        for capture, part in zip(captures, found, strict=True):
            if part is not None or gaps:
                capture.news()

    def _gaps_before(self, item: _Item, captures: list[Capture]) -> list[Gap]:
        """Of frames that nobody looked at."""
        gaps = [] if item.unseen is None else [item.unseen]
        if item.dropped > self._dropped:
            first = min(capture.catch.reached for capture in captures)
            gaps.append(Gap(min(first, item.reached), item.reached, item.dropped - self._dropped, KERNEL))
        self._dropped = item.dropped
        return gaps

    def _enter(self, capture: Capture, part: Part | None, gaps: list[Gap], reached: int) -> None:
        """The lock is ours."""
        catch, lost = capture.catch, self._view.lost
        for gap in gaps:
            catch.lose(gap)
            lost[gap.reason] += gap.frames or 0
        before = catch.lost
        if part is not None:
            catch.add(part)
            lost[LATE] += catch.lost - before
        catch.reached = max(catch.reached, reached)


def _whole(block: Block, frames: int) -> Gap:
    """So many frames of a block, who knows which."""
    return Gap(int(block.time.min()), int(block.time.max()), frames, SKIPPED)


def _found(block: Block, captures: list[Capture], sight: Sight) -> list[Part | None]:
    """The frames of a block that each capture wants, as packet blocks."""
    parts: list[Part | None] = []
    whole: Part | None = None
    for mask in sight.masks(block, [capture.wanted for capture in captures]):
        if mask is None or mask.all():
            whole = whole or blocks_of(block)
            parts.append(whole)
        else:
            parts.append(blocks_of(pick(block, mask)) if mask.any() else None)
    return parts
