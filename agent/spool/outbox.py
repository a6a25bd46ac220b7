"""An outbox whose items have copies on disk, or are left there and come back when there is room.

What is done here is done under the outbox's lock and touches no file; the `Spooler` reads and writes between two calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic

from agent.spool.index import Key, Segment, rows_of
from agent.spool.segment import Record
from agent.uplink.outbox import HIGH, LOW, Outbox
from protocol.codec import encode
from protocol.delivery import COPYING, DOUBT, NEW, Item
from protocol.ranges import Ranges

AGE = 1.0
"""Seconds without an acknowledgement after which a batch is copied to disk."""
SPILL = 0.5
"""Share of the bound beyond which all is copied at once, and what was never sent is left to its copy."""
REFILL = 0.25
"""Share of the bound below which batches come back from the disk."""
MAX_STREAMS = 1000
"""Epochs that are named in a hello; of the others the hub says what it holds when they are sent."""
KINDS = ("packets", "calls", "flows")
"""What is shed first."""
DAMAGED = "spool_damaged"
"""Reason of a tombstone for a batch whose copy on disk cannot be read."""


@dataclass(frozen=True, slots=True)
class Copy:
    """An item, and what of it is being written."""

    item: Item
    record: Record
    was: int  # the segment of an older copy, 0 where there is none


class SpooledOutbox(Outbox):
    """See the module. `bound` bytes in memory, `disk_bound` bytes on disk."""

    def __init__(self, bound: int, disk_bound: int, on_put: Callable[[], None] = lambda: None) -> None:
        super().__init__(bound, on_put)
        self.disk_bound = disk_bound
        self.segments: list[Segment] = []  # oldest first; changed under the lock
        self.wake: Callable[[], None] = lambda: None  # there is work for the spooler
        self.guarded: Callable[[], bool] = lambda: False  # whether copies on disk can be marked
        self._keeps = True
        self._fresh: deque[Key] = deque()  # what has no copy, oldest first; some of it may be done

    # -- what is different -----------------------------------------------------------------------------------------

    def _offered(self, item: Item) -> None:
        self._fresh.append(item.key)
        if self._sender.bytes > SPILL * self.bound:
            self.wake()

    def _buried(self, items: Iterable[Item]) -> None:
        items = list(items)
        super()._buried(items)
        self._fresh.extendleft(item.key for item in reversed(items))  # their copies say something else

    def welcome(self, store: str, positions: dict[int, Ranges], window: tuple[int, int]) -> list[Item]:
        """See `Sender.welcome`."""
        done = super().welcome(store, positions, window)
        self._tell()
        return done

    def ack(self, epoch: int, held: Ranges, window: tuple[int, int]) -> list[Item]:
        """See `Sender.ack`."""
        done = super().ack(epoch, held, window)
        self._tell()
        return done

    def _tell(self) -> None:
        if self.segments:
            self.wake()

    def next(self) -> Item | None:
        """See `Sender.next`."""
        self._sender.guarded = self.guarded()
        return super().next()

    @property
    def batches(self) -> int:
        """Batches and tombstones owed, in memory or on disk."""
        return len(self._sender) + sum(segment.batches for segment in tuple(self.segments))

    @property
    def streams(self) -> list[int]:
        """The epochs of which something is owed, as many as a hello names."""
        with self._lock:
            parked = (epoch for segment in self.segments for epoch in segment.parked)
            return list(islice(dict.fromkeys([*self._sender.streams, *parked]), MAX_STREAMS))

    @property
    def pending_packets(self) -> int:
        """Packets whose rows are owed, in memory or on disk."""
        with self._lock:
            return self._sender.pending_packets + sum(segment.packets for segment in self.segments)

    @property
    def spooled_packets(self) -> int:
        """Packets whose rows are owed and on disk."""
        with self._lock:
            copies = sum(rows_of(item.message) for item in self._sender.copies())
            return copies + sum(segment.packets for segment in self.segments)

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in tuple(self.segments))

    def oldest_age(self) -> float:
        """Age in seconds of the oldest thing owed; 0 where nothing is."""
        with self._lock:
            sinces = [segment.since for segment in self.segments if not segment.done]
        return max([super().oldest_age(), *(monotonic() - since for since in sinces[:1])])

    def level(self, present: str) -> str:
        """What a live agent should send: `flows` where memory or disk fill up."""
        full = max(self.bytes / self.bound, self.disk_bytes / self.disk_bound)
        if full > HIGH:
            return "flows"
        return "packets" if full < LOW else present

    # -- copies are made -------------------------------------------------------------------------------------------

    def take_due(self, now: float, everything: bool, limit: int) -> list[Copy]:
        """What is to be copied now, about `limit` bytes of it: old enough, or too much, or `everything`."""
        copies: list[Copy] = []
        with self._lock:
            everything = everything or self._sender.bytes > SPILL * self.bound
            while self._fresh and limit > 0:
                item = self._sender.find(self._fresh[0])
                if item is not None and not item.segment:
                    if not everything and now - item.offered < AGE:
                        break
                    copies.append(_begin(item))
                    limit -= item.size
                self._fresh.popleft()
        return copies

    def written(self, copies: Iterable[Copy], segment: Segment, size: int) -> None:
        """These are in `segment` now, which grew by `size` bytes."""
        with self._lock:
            segment.size += size
            for copy in copies:
                segment.note(copy.record.stub)
                item = copy.item
                if copy.was:
                    self._sender.released.append((copy.was, item.key, False))
                if item.segment == COPYING:
                    item.segment, item.marked = segment.number, copy.record.store
                    segment.in_memory += 1
                elif self._sender.find(item.key) is None:  # acknowledged in the meantime
                    segment.in_memory += 1
                    self._sender.released.append((segment.number, item.key, True))

    def not_written(self, copies: Iterable[Copy]) -> None:
        """These could not be written: they are due again."""
        with self._lock:
            for copy in reversed(list(copies)):
                if copy.item.segment == COPYING:
                    copy.item.segment = copy.was
                elif copy.was:
                    self._sender.released.append((copy.was, copy.item.key, True))
                if not copy.item.segment:
                    self._fresh.appendleft(copy.item.key)

    # -- from memory to disk and back ------------------------------------------------------------------------------

    def park(self) -> None:
        """Leave to the disk what is too much for memory."""
        with self._room:
            by_number = {segment.number: segment for segment in self.segments}
            for item in self._sender.park(int(SPILL * self.bound)) if self.bytes > SPILL * self.bound else ():
                segment = by_number[item.segment]
                segment.in_memory -= 1
                segment.park(item.message)

    def unpark(self, segment: Segment, records: Iterable[Record], now: float) -> int:
        """What was parked in `segment` is in memory again; the number of batches that are damaged."""
        with self._lock:
            segment.clear()
            items = [_item_of(record, segment, now) for record in records]
            for item in items:
                self._sender.offer(item)
                segment.in_memory += 1
            damaged = [item for item in items if item.message.reason == DAMAGED]
            super()._buried(damaged)
        self.on_put()
        return len(damaged)

    def rewrite(self, segment: Segment, kind: str) -> list[Copy]:
        """Shed the never-sent batches of `kind` in `segment`; what is to be copied so that its file may go."""
        with self._lock:
            items = self._sender.copies(segment.number)
            for item in items:
                if item.state == NEW and item.message.kind == kind and not item.message.reason:
                    super()._buried([self._sender.bury(item, "shed")])
                    self.shed_batches += 1
            return [_begin(item) for item in items]

    # -- copies are of no more use ---------------------------------------------------------------------------------

    def release(self) -> list[Key]:
        """Count what is not owed any more; which of it is in files that stay."""
        with self._lock:
            released, self._sender.released = self._sender.released, []
            by_number = {segment.number: segment for segment in self.segments}
            for number, _, _ in released:
                if number in by_number:
                    by_number[number].in_memory -= 1
            first = next((segment.number for segment in self.segments if not segment.done), None)
            return [key for number, key, done in released if done and first is not None and number >= first]

    def unmarked(self) -> tuple[str, list[Item]]:
        """See `Sender.unmarked`."""
        with self._lock:
            return self._sender.unmarked()

    def marked(self, store: str, items: Iterable[Item]) -> None:
        """The copies of these say now that they may be in `store`."""
        with self._lock:
            for item in items:
                item.marked = store
        self.on_put()

    def add(self, segment: Segment) -> None:
        """There is a new file."""
        with self._lock:
            self.segments.append(segment)

    def remove(self, segment: Segment) -> None:
        """A file is gone, or given up."""
        with self._lock:
            self.segments.remove(segment)
            for item in self._sender.copies(segment.number):  # none where the file was done
                item.segment = 0
                self._fresh.append(item.key)


def _begin(item: Item) -> Copy:
    store = "" if item.state == NEW else item.store
    was, item.segment, item.marked = item.segment, COPYING, ""  # an older copy's mark ends with the new record
    return Copy(item, Record(item.message, item.data, store), was)


def _item_of(record: Record, segment: Segment, now: float) -> Item:
    stub, data = record.stub, record.data
    if data is None:
        stub = replace(stub, reason=DAMAGED)
        data = encode(stub)
    state = DOUBT if record.store else NEW
    return Item(stub, data, segment.since, state, record.store, now, 0, segment.number, record.store)
