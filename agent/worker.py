"""The capture thread: source -> pipeline -> outbox, until the source is done or it is told to stop."""

from __future__ import annotations

import threading
from time import monotonic, time_ns
from typing import Any

from agent.capture import CaptureError, Source
from agent.capture.own import OwnTraffic
from agent.pipeline import Pipeline
from agent.uplink.outbox import Outbox

POLL = 0.1
"""Seconds for which the source is waited for at once."""


class Worker(threading.Thread):
    """Owns the source and the pipeline from `start()` on; everybody else only reads their numbers."""

    def __init__(
        self, source: Source, pipeline: Pipeline, outbox: Outbox, log: Any, own: OwnTraffic | None = None
    ) -> None:
        super().__init__(name="capture", daemon=True)
        self.beat = monotonic()
        self.error = ""
        self.finished = False
        self.eager = False  # no open rows: the link is down, and capture buffers have to stay empty
        self._source, self._pipeline, self._outbox, self._log = source, pipeline, outbox, log
        self._own = own
        self._halt = False

    def stop(self) -> None:
        """Take nothing more from the source but what it already has."""
        self._halt = True

    def run(self) -> None:
        """Capture until the end, then flush and close the books."""
        try:
            self._capture()
        except CaptureError as error:
            self.error = str(error)
        except Exception as error:
            self._log.exception("bug in the capture thread")
            self.error = f"internal error: {error!r}"
        finally:
            self._finish()

    def _capture(self) -> None:
        stopped = False
        while not self._source.done:
            self.beat = monotonic()
            if self._halt and not stopped:
                stopped = True
                self._source.stop()
                if not self._source.live:
                    return
            block = self._source.next_block(POLL)
            if block is not None:
                self._put(self._pipeline.feed(self._own.drop(block) if self._own else block))
            if self._source.live:
                self._pace()

    def _pace(self) -> None:
        """A live source: close what is due, follow the pressure on the outbox."""
        self._count()
        self._put(self._pipeline.tick(time_ns()))
        if self.eager:
            self._put(self._pipeline.seal())
        pressed = getattr(self._source, "pressed", False)  # the ring fills up: before it drops, rows go
        level = "flows" if pressed else self._outbox.level(self._pipeline.level)
        if level != self._pipeline.level:
            self._log.warning(
                "level", level=level, was=self._pipeline.level, outbox_bytes=self._outbox.bytes, ring_pressed=pressed
            )
            self._pipeline.level = level

    def _count(self) -> None:
        counters = self._source.counters()
        if self._own is not None:
            counters.discarded["own_traffic"] = self._own.dropped
        self._pipeline.counters(counters)

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
            self._source.close()
