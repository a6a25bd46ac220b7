"""The thread between the outbox and the disk. Neither the capture nor the link ever waits for a file.

What is not acknowledged within a second, or too much for memory, is copied to disk, a few times a second and in one
write each time, and is on the disk (fdatasync) before it counts as copied. What is acknowledged is forgotten: a file
goes once nothing in it, or in one before it, is owed. While acknowledgements flow, nothing is written.

A disk that fails is said once, costs nothing but the copies, and is tried again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from agent.spool.folder import Folder, Locked
from agent.spool.index import Key, Recovery, Segment, owed, runs
from agent.spool.outbox import KINDS, REFILL, Copy, SpooledOutbox
from agent.spool.segment import DONE, SENT, Foreign, Mark, pack_header, pack_mark, pack_record, scan
from agent.spool.turns import NAMED, Turns, named
from protocol.delivery import Item

RETRY = 10.0
"""Seconds between two tries of a disk that failed."""
HUNG = 3.0
"""Seconds after which a disk that does not answer holds up nothing any more."""
MAX_SEGMENT = 8 << 20


@dataclass(slots=True)
class SpoolView:
    """What other threads may read: numbers and words, replaced, never changed in place."""

    bytes: int = 0
    segments: int = 0
    parked_batches: int = 0
    failing: str = ""
    written_bytes: int = 0
    recovered_batches: int = 0
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("damaged", "unreadable"), 0))
    errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*NAMED, "other"), 0))


class Spooler(Turns):
    """Serves one outbox from one folder until `finish`."""

    def __init__(self, folder: Folder, outbox: SpooledOutbox, agent: str, log: Any) -> None:
        super().__init__("spool")
        self.view = SpoolView()
        self._folder, self._outbox, self._agent, self._log = folder, outbox, agent, log
        self._segment_bytes = max(64 << 10, min(MAX_SEGMENT, outbox.disk_bound // 16, outbox.bound // 8))
        self._stores: dict[Key, str] = {}  # what marks of earlier runs say of batches that are parked
        self._active: Segment | None = None
        self._key = 0
        self._last = 0
        self._ready = False
        self._retry_at = 0.0
        self._busy: float | None = None
        self._full = False
        outbox.wake, outbox.guarded = self._news.set, self._guards

    # -- life ------------------------------------------------------------------------------------------------------

    def look(self) -> SpoolView:
        """The spool at this moment."""
        segments = tuple(self._outbox.segments)
        sizes = sum(segment.size for segment in segments)
        parked = sum(segment.batches for segment in segments)
        return replace(self.view, bytes=sizes, segments=len(segments), parked_batches=parked)

    def turn(self, now: float, ending: bool = False) -> None:
        """Do once what there is to do, as far as the disk lets us."""
        self._busy = monotonic()
        try:
            self._step(now, ending)
        except OSError as error:
            self._failed(now, named(error), error.strerror or str(error))
        except Locked as error:
            self._failed(now, "other", str(error))
        except Exception as error:
            self._log.exception("bug in the spool")
            self._failed(now, "other", repr(error))
        finally:
            self._busy = None

    def _failed(self, now: float, name: str, reason: str) -> None:
        self._retry_at = now + RETRY
        self._active = None
        if not self.view.failing:
            self._log.error("spool failed; going on in memory", path=str(self._folder.path), reason=reason)
        self.view.failing = reason
        self.view.errors = {**self.view.errors, name: self.view.errors[name] + 1}
        self._outbox.on_put()  # nothing waits for a mark now

    def _works(self) -> None:
        if self.view.failing:
            self._log.info("spool works again", was=self.view.failing)
            self.view.failing = ""

    def _guards(self) -> bool:
        busy = self._busy
        return not self.view.failing and (busy is None or monotonic() - busy < HUNG)

    def _step(self, now: float, ending: bool) -> None:
        trying = ending or now >= self._retry_at
        if not ending:
            self._refill(now)
        if trying:
            self._begin(now)
            self._copy(now, ending)
        self._outbox.park()
        if trying:
            self._settle()

    # -- what an earlier run left ----------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        if self._ready:
            return
        if not self._folder.opened:
            self._folder.open()
        recovery, found = Recovery(), []
        for number in reversed(self._folder.numbers()):
            self._last = max(self._last, number)
            segment = self._look(number, recovery, now)
            if segment is not None:
                found.append(segment)
        self._stores = recovery.stores
        for segment in reversed(found):
            self._outbox.add(segment)
        self._ready = True
        self._works()
        self._say_what_was_found(found)

    def _look(self, number: int, recovery: Recovery, now: float) -> Segment | None:
        """What a file of an earlier run holds; None where it is left alone."""
        try:
            data = self._folder.read(number)
            result = scan(data, self._agent)
        except (OSError, Foreign) as error:
            self._log.warning("spool's file is left as it is", number=number, reason=str(error))
            return None
        segment = Segment(number, len(data), now)
        recovery.add(segment, result.found)
        if result.unreadable or result.cut:
            self._lost("unreadable", result.unreadable)
            self._log.warning("spool damaged", number=number, unreadable=result.unreadable, cut_bytes=result.cut)
        return segment

    def _say_what_was_found(self, found: list[Segment]) -> None:
        self.view.recovered_batches = sum(segment.batches for segment in found)
        if self.view.recovered_batches:
            epochs = {epoch for segment in found for epoch in segment.parked}
            self._log.info(
                "spool recovered", path=str(self._folder.path), batches=self.view.recovered_batches,
                packets=sum(segment.packets for segment in found), epochs=[f"{e:016x}" for e in list(epochs)[:10]],
            )  # fmt: skip
        if others := self._folder.others():
            self._log.warning("spools of other agents are here", folders=others[:10])

    def _lost(self, reason: str, batches: int) -> None:
        self.view.lost = {**self.view.lost, reason: self.view.lost[reason] + batches}

    # -- copies ----------------------------------------------------------------------------------------------------

    def _copy(self, now: float, everything: bool) -> None:
        while copies := self._outbox.take_due(now, everything, self._segment_bytes):
            with self._given_back(copies):
                room = self._make_room(sum(len(copy.record.data or b"") for copy in copies), now)
                if room:
                    self._write(copies, now)
            if not room:
                self._outbox.not_written(copies)
                return

    @contextmanager
    def _given_back(self, copies: list[Copy]) -> Iterator[None]:
        """Copies that cannot be written are due again."""
        try:
            yield
        except BaseException:
            self._outbox.not_written(copies)
            raise

    def _write(self, copies: list[Copy], now: float) -> None:
        segment = self._open(now)
        parts = [part for copy in copies for part in pack_record(copy.record, self._key)]
        self._outbox.written(copies, segment, self._append(parts))

    def _append(self, parts: list[bytes]) -> int:
        size = self._folder.append(parts)
        self.view.written_bytes += size
        self._works()
        return size

    def _open(self, now: float) -> Segment:
        """The file to write to, a new one where the present one is large enough."""
        if self._active is None or self._active.size >= self._segment_bytes:
            self._active = None
            self._last += 1
            self._key = secrets.randbits(32)
            header = pack_header(self._agent, self._key)
            self._folder.create(self._last, header)
            self._active = Segment(self._last, len(header), now)
            self._outbox.add(self._active)
        return self._active

    def _make_room(self, size: int, now: float) -> bool:
        """Whether `size` bytes may be written, after the oldest files were shed where they have to be."""
        while self._outbox.disk_bytes + size + self._segment_bytes > self._outbox.disk_bound:
            closed = [segment for segment in self._outbox.segments if segment is not self._active]
            kind = next((kind for kind in KINDS if any(kind in segment.kinds for segment in closed)), None)
            if kind is None:
                return False
            if not self._full:
                self._log.warning("spool full; the oldest rows are shed", bytes=self._outbox.disk_bytes)
            self._full = True
            self._shed(closed[0], kind, now)
            if closed[0] in self._outbox.segments:
                return False
        return True

    def _shed(self, segment: Segment, kind: str, now: float) -> None:
        """The oldest file goes: batches of `kind` become tombstones, all else is written again."""
        self._unpark(segment, now)
        copies = self._outbox.rewrite(segment, kind)
        with self._given_back(copies):
            if copies:
                self._write(copies, now)
        self._settle()

    # -- what is not owed any more ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Delete files of which nothing is owed; say on disk what is done, and what is about to be sent to a store."""
        done = self._outbox.release()
        for segment in self._finished():
            if segment is self._active:
                self._folder.finish()
                self._active = None
            self._folder.delete(segment.number)
            self._outbox.remove(segment)
            self._full = False
            self._works()
        store, items = self._outbox.unmarked()
        marks = [Mark(DONE, epoch, found) for epoch, found in runs(done)]
        marks += [Mark(SENT, epoch, found, store) for epoch, found in runs(item.key for item in items)]
        if marks:
            self._mark(marks, store, items)

    def _finished(self) -> Iterator[Segment]:
        """The files that may go, oldest first: marks in a later file are about batches in an earlier one."""
        while self._outbox.segments and self._outbox.segments[0].done:
            yield self._outbox.segments[0]

    def _mark(self, marks: list[Mark], store: str, items: list[Item]) -> None:
        segment = self._open(monotonic())
        segment.size += self._append([part for mark in marks for part in pack_mark(mark, self._key)])
        if items:
            self._outbox.marked(store, items)

    # -- back from the disk ----------------------------------------------------------------------------------------

    def _refill(self, now: float) -> None:
        while self._outbox.bytes < REFILL * self._outbox.bound:
            segment = next((segment for segment in self._outbox.segments if segment.batches), None)
            if segment is None:
                return
            self._unpark(segment, now)

    def _unpark(self, segment: Segment, now: float) -> None:
        if not segment.batches:
            return
        try:
            found = scan(self._folder.read(segment.number), self._agent).found
        except (OSError, Foreign) as error:
            self._log.error("spool's file cannot be read", number=segment.number, reason=str(error))
            self._lost("unreadable", segment.batches)
            self._outbox.remove(segment)  # and is there at the next start
            return
        records = [
            replace(record, store=self._stores.pop((record.stub.epoch, record.stub.seq), record.store))
            for record in owed(segment, found)
        ]
        self._lost("damaged", self._outbox.unpark(segment, records, now))
