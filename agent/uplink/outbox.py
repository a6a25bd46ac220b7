"""The outbox: a `Sender` that several threads share, bounded by bytes.

The capture thread puts batches in, the loop takes them out, the watchdog looks. A file's thread waits for room; a
live one never waits: what does not fit is shed, packet rows first, and leaves tombstones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from time import monotonic

from protocol.delivery import Item, Sender, item_of
from protocol.messages import Batch, Tombstone
from protocol.ranges import Ranges

HIGH, LOW = 0.75, 0.25
"""Shares of the bound at which a live agent stops and starts again to send packet rows."""


class Outbox:
    """Everything sealed and not acknowledged, at most `bound` bytes (plus the batch being put)."""

    def __init__(self, bound: int, on_put: Callable[[], None] = lambda: None) -> None:
        self.bound = bound
        self.on_put = on_put
        self.finished = False  # nothing will be put any more
        self.shed_batches = 0
        self.lost: dict[str, int] = {}  # packets of batches that became tombstones, by reason
        self._keeps = False  # whether what comes after `close` is of use
        self._sender = Sender()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._closed = False
        self._refused = 0  # packets of packet batches that came too late

    # -- the capture thread ----------------------------------------------------------------------------------------

    def put(self, message: Batch | Tombstone, wait: bool) -> bool:
        """Take a batch. With `wait`, block until there is room; without, shed older rows to make room.

        False where the outbox was closed while waiting: the batch was not taken.
        """
        item = item_of(message, monotonic())
        with self._room:
            while wait and self._sender.bytes + item.cost > self.bound and len(self._sender) and not self._closed:
                self._room.wait(1.0)
            if self._closed and not self._keeps:
                self._refused += item.message.packets if item.message.kind == "packets" else 0
                return False
            self._sender.offer(item)
            self._offered(item)
            if not wait and self._sender.bytes > self.bound:
                self._shed()
        self.on_put()
        return True

    def _shed(self) -> None:
        made = self._sender.shed(self.bound, "shed")
        self.shed_batches += len(made)
        self._buried(made)

    def _offered(self, item: Item) -> None:
        """Under the lock: this was put."""

    def _buried(self, items: Iterable[Item]) -> None:
        """Under the lock: these became tombstones."""
        for message in (item.message for item in items):
            packets = message.packets if message.kind == "packets" else message.flow_only
            if packets:
                self.lost[message.reason] = self.lost.get(message.reason, 0) + packets

    def finish(self) -> None:
        """Nothing will be put any more."""
        self.finished = True
        self.on_put()

    def close(self) -> None:
        """Give up: whoever waits for room stops waiting."""
        with self._room:
            self._closed = True
            self._room.notify_all()

    # -- the loop --------------------------------------------------------------------------------------------------

    def welcome(self, store: str, positions: dict[int, Ranges], window: tuple[int, int]) -> list[Item]:
        """See `Sender.welcome`."""
        with self._room:
            done = self._sender.welcome(store, positions, window, monotonic())
            self._room.notify_all()
            return done

    def ack(self, epoch: int, held: Ranges, window: tuple[int, int]) -> list[Item]:
        """See `Sender.ack`."""
        with self._room:
            done = self._sender.ack(epoch, held, window, monotonic())
            if done:
                self._room.notify_all()
            return done

    def next(self) -> Item | None:
        """See `Sender.next`."""
        with self._lock:
            return self._sender.next(monotonic())

    def reject(self, epoch: int, seq: int, final: bool) -> Item | None:
        """See `Sender.reject`."""
        with self._lock:
            item = self._sender.reject(epoch, seq, final)
            if item is not None and item.message.reason:
                self._buried([item])
            return item

    def bury_doubt(self, older_than: float) -> list[Item]:
        """See `Sender.bury_doubt`."""
        with self._lock:
            made = self._sender.bury_doubt(monotonic(), older_than)
            self._buried(made)
            return made

    def disconnected(self, unread: bool = False) -> Item | None:
        """See `Sender.disconnected`."""
        with self._lock:
            item = self._sender.disconnected(unread)
            if item is not None:
                self._buried([item])
            return item

    # -- anyone ----------------------------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Bytes held in memory."""
        return self._sender.bytes

    @property
    def batches(self) -> int:
        """Batches and tombstones held."""
        return len(self._sender)

    @property
    def window(self) -> int:
        """Batches that the hub grants at a time; 0 before it has."""
        return self._sender.window

    @property
    def outstanding(self) -> int:
        """Batches sent on this connection and not acknowledged."""
        return self._sender.outstanding

    @property
    def streams(self) -> list[int]:
        """The epochs of which something is owed."""
        with self._lock:
            return self._sender.streams

    @property
    def stores(self) -> list[str]:
        """The stores that may hold batches in doubt."""
        with self._lock:
            return self._sender.stores

    @property
    def pending_packets(self) -> int:
        """Packets whose rows are owed, those included that came after the outbox was closed."""
        with self._lock:
            return self._sender.pending_packets + self._refused

    @property
    def spooled_packets(self) -> int:
        """Those of them that are on disk, too."""
        return 0

    def waiting(self) -> float:
        """Seconds without an acknowledgement while something is outstanding."""
        with self._lock:
            return self._sender.waiting(monotonic())

    def oldest_age(self) -> float:
        """Age in seconds of the oldest thing owed; 0 where nothing is."""
        with self._lock:
            oldest = self._sender.oldest()
        return 0.0 if oldest is None else monotonic() - oldest

    def level(self, present: str) -> str:
        """What a live agent should send: `flows` under pressure, `packets` when it is gone, with hysteresis."""
        if self.bytes > HIGH * self.bound:
            return "flows"
        return "packets" if self.bytes < LOW * self.bound else present
