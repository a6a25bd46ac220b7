"""The capture thread: source -> pipeline -> outbox, until the source is done or it is told to stop.

Where it hangs while it waits for frames, a new thread with a new source takes its place (`replace`); the old one,
should it ever come back, finds that its turn is over and touches nothing but its own source.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from time import monotonic, time_ns
from typing import Any

from agent import failpoints
from agent.capture import Block, CaptureError, Counters, Source
from agent.capture.own import OwnTraffic
from agent.capture.paced import PacedSource
from agent.pipeline import LEVELS, Pipeline
from agent.seal import age_of
from agent.tap.tap import Tap
from agent.uplink.outbox import Outbox
from protocol.messages import Batch

POLL = 0.1
"""Seconds for which the source is waited for at once."""
A_MOMENT = 0.2
"""Seconds for a change of the pipeline that is under way while the thread is to be replaced."""
MOST_HUNG = 6
"""Threads that may hang before a new one is no help any more."""


class Worker:
    """Owns the source and the pipeline from `start()` on; everybody else only reads their numbers."""

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        outbox: Outbox,
        log: Any,
        own: OwnTraffic | None = None,
        record: Callable[[Block], None] | None = None,
        tap: Tap | None = None,
    ) -> None:
        self.beat = monotonic()
        self.error = ""
        self.finished = False
        self.eager = False  # no open rows: the link is down, and capture buffers have to stay empty
        self.restarts = 0
        self.detail = LEVELS[0]
        """The most that is to be told: `packets`, or only `flows`."""
        self._source, self._pipeline, self._outbox, self._log = source, pipeline, outbox, log
        self._own, self._record, self._tap = own, record, tap
        self._halt = False
        self._work = threading.Lock()  # held by whoever touches the pipeline or the outbox
        self._before = Counters()  # what sources that were given up have counted
        self._thread = self._new_thread()
        self._hung: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to capture; the source is open."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end, at most so many seconds."""
        self._thread.join(timeout)

    def stop(self) -> None:
        """Take nothing more from the source but what it already has."""
        self._halt = True

    def replace(self) -> bool:
        """The thread hangs: let a new one go on, with a new source. False where only the old one could go on.

        That is so in the midst of its work on a block, and where too many hang already: each keeps its ring. What lies
        unread in the old source is counted as dropped by the kernel: nobody will ever see it.
        """
        again = getattr(self._source, "again", None)
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        if again is None or len(self._hung) >= MOST_HUNG or not self._work.acquire(timeout=A_MOMENT):
            return False
        try:
            self._source.stop()
            self._before = self._given_up()
            self._source = again()
            self.beat, self.restarts = monotonic(), self.restarts + 1
            self._hung.append(self._thread)
            self._thread = self._new_thread()
        finally:
            self._work.release()
        self._thread.start()
        return True

    @property
    def source(self) -> Source:
        """What is captured from at present."""
        return self._source

    def change(self, make: Callable[[], Iterable[Batch]]) -> None:
        """From another thread: change the pipeline between two blocks, and take what comes of it."""
        with self._work:
            if not self.finished:
                self._put(make())

    # -- the thread ------------------------------------------------------------------------------------------------

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, args=(self._source, self.restarts), name="capture", daemon=True)

    def _run(self, source: Source, turn: int) -> None:
        """Capture until the end, then flush and close the books."""
        error = ""
        try:
            if turn:
                source.open()
            self._capture(source, turn)
        except CaptureError as problem:
            error = str(problem)
        except Exception as problem:
            self._log.exception("bug in the capture thread")
            error = f"internal error: {problem!r}"
        with self._work:
            if turn == self.restarts:
                self.error = self.error or error
                self._finish()
        source.close()

    def _capture(self, source: Source, turn: int) -> None:
        stopped = False
        while not source.done:
            self.beat = monotonic()
            failpoints.capture()
            if self._halt and not stopped:
                stopped = True
                source.stop()
                if not source.live:
                    return
            block = source.next_block(POLL)
            with self._work:
                if turn != self.restarts:
                    return
                if block is not None and self._own:
                    block = self._own.drop(block)
                if self._tap is not None:
                    hurry = getattr(self._source, "pressed", False) or self._pipeline.level != self.detail
                    self._tap.put(block, self._pipeline.report.kernel_dropped, hurry)
                if block is not None:
                    if self._record is not None:
                        self._record(block)
                    self._put(self._pipeline.feed(block))
                if source.live:
                    self._pace()
                elif isinstance(source, PacedSource):
                    self._put(self._pipeline.due(time_ns()))

    def _pace(self) -> None:
        """A live source: close what is due, follow the pressure on the outbox."""
        self._count()
        self._put(self._pipeline.tick(time_ns(), age_of(self._outbox.window)))
        if self.eager:
            self._put(self._pipeline.seal())
        pressed = getattr(self._source, "pressed", False)  # the ring fills up: before it drops, rows go
        plain = pressed or self.detail == "flows"
        level = "flows" if plain else self._outbox.level(self._pipeline.level)
        if level != self._pipeline.level:
            self._log.warning(
                "level", now=level, was=self._pipeline.level, outbox_bytes=self._outbox.bytes, ring_pressed=pressed
            )
            self._pipeline.level = level

    def _count(self) -> None:
        self._pipeline.counters(self._counters())

    def _counters(self) -> Counters:
        """Of all sources so far."""
        now, before = self._source.counters(), self._before
        discarded = {
            reason: now.discarded.get(reason, 0) + before.discarded.get(reason, 0)
            for reason in (*now.discarded, *before.discarded)
        }
        if self._own is not None:
            discarded["own_traffic"] = self._own.dropped
        return Counters(
            now.kernel_packets + before.kernel_packets, now.kernel_dropped + before.kernel_dropped, discarded
        )

    def _given_up(self) -> Counters:
        """What the present source has counted at its end, frames that it never handed over among the dropped."""
        counters = self._counters()
        seen = self._pipeline.report.captured + sum(counters.discarded.values())
        counters.kernel_dropped = max(counters.kernel_dropped, counters.kernel_packets - seen)
        counters.discarded.pop("own_traffic", None)
        return counters

    def _put(self, messages: Any) -> None:
        for message in messages:  # also into a closed outbox, which counts what it cannot take
            self._outbox.put(message, wait=not self._source.live)

    def _finish(self) -> None:
        try:
            self._count()
            self._put(self._pipeline.finish())
        except Exception as error:
            self._log.exception("bug while closing the books")
            self.error = self.error or f"internal error: {error!r}"
        finally:
            self.finished = True
            self._outbox.finish()
