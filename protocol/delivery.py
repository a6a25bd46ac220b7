"""Exactly once, as two pure state machines: what a `Sender` may send, what a `Receiver` has.

A batch is (epoch, seq). At the sender it is

    new    never sent
    sent   on the present connection, not acknowledged
    doubt  sent on a connection that broke: it may be stored, in the store it went to and in no other

and leaves when it is acknowledged, because only then it is on disk. After a reconnect the hub says what it holds
(`Welcome.positions`): batches in doubt that it holds are done, the others are sent again, but only to the store that
may hold them. A batch that has to go becomes a tombstone under the same number, so the receiver's watermark always
advances. The receiver takes each number once, whatever is sent twice.

A hub that cannot read a message ends the connection, and cannot say which batch it was. Where that goes on and nothing
is acknowledged, batches go one at a time, and the one that is out alone the next time becomes a tombstone: no batch
can hold up those behind it for ever.

An item may have a copy on disk, which outlives the sender. Where it may be sent to has to stand there first: a copy
that says `new` after its batch was sent would be given to another store. Such an item waits until it is `marked`.

Times are seconds of any monotonic clock, always the same one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from protocol.codec import encode
from protocol.errors import IllegalMoment, LocalError
from protocol.ledger import QUARANTINED
from protocol.limits import MAX_HELD
from protocol.messages import Batch, Tombstone
from protocol.ranges import Ranges

NEW, SENT, DOUBT = "new", "sent", "doubt"
COPYING = -1
"""The `segment` of an item whose copy is being written."""
ALONE = 2
"""Connections in a row that ended unread, without an acknowledgement, after which batches go one at a time."""
OVERHEAD = 1024
"""Bytes of memory that an item takes beside its data, measured: of small batches that is the larger part."""


@dataclass(slots=True)
class Item:
    """One batch or tombstone on its way: what it stands for, its bytes, where it is."""

    message: Tombstone  # what would be sent in its place; of a batch, a tombstone without a reason
    data: bytes
    offered: float
    state: str = NEW
    store: str = ""  # the store it was sent to last
    sent: float = 0.0
    rejects: int = 0
    segment: int = 0  # where its copy on disk is; 0 where there is none
    marked: str = ""  # the store that the copy says it may be in

    @property
    def key(self) -> tuple[int, int]:
        """(epoch, seq)."""
        return self.message.epoch, self.message.seq

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.data)

    @property
    def cost(self) -> int:
        """Bytes in memory."""
        return len(self.data) + OVERHEAD


def item_of(message: Batch | Tombstone, now: float) -> Item:
    """A sealed batch or a tombstone as an item, encoded."""
    if isinstance(message, Tombstone):
        return Item(message, encode(message), now)
    stub = Tombstone(
        agent=message.agent,
        epoch=message.epoch,
        seq=message.seq,
        kind=message.kind,
        packets=message.packets,
        flow_only=message.flow_only,
        first=message.first,
        last=message.last,
        ledger=message.ledger,
    )
    return Item(stub, encode(message), now)


class Sender:
    """What an agent still owes its hub, in order, and what it may send now."""

    def __init__(self) -> None:
        self._items: dict[tuple[int, int], Item] = {}  # everything owed, in the order it was offered
        self._queue: deque[tuple[int, int]] = deque()  # what the present connection may still be sent
        self._sent: dict[tuple[int, int], Item] = {}  # what the present connection was sent
        self._sent_bytes = 0
        self._store = ""
        self._window = (0, 0)
        self._unread = 0  # connections since the last acknowledgement that ended because of what was sent
        self.bytes = 0  # in memory
        self.connected = False
        self.progress = 0.0  # when the hub last took something off us, or owed us its first answer
        self.guarded = False  # whether items with a copy on disk wait until they are marked
        self.released: list[tuple[int, tuple[int, int], bool]] = []
        """Copies on disk that are of no more use: (segment, key, whether the item is done)."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def window(self) -> int:
        """Batches that may be out at a time, as the hub said last; 0 before it has."""
        return self._window[0]

    @property
    def outstanding(self) -> int:
        """Batches sent on this connection and not acknowledged."""
        return len(self._sent)

    @property
    def streams(self) -> list[int]:
        """The epochs of which something is owed."""
        return list(dict.fromkeys(epoch for epoch, _ in self._items))

    @property
    def stores(self) -> list[str]:
        """The stores that may hold batches in doubt."""
        return list(dict.fromkeys(item.store for item in self._items.values() if item.state == DOUBT))

    @property
    def pending_packets(self) -> int:
        """Packets of packet batches that are owed, tombstones left out."""
        owed = self._items.values()
        return sum(i.message.packets for i in owed if i.message.kind == "packets" and not i.message.reason)

    def oldest(self) -> float | None:
        """When the oldest unacknowledged item was sealed; None where nothing is owed."""
        return next((item.offered for item in self._items.values()), None)

    # -- what comes in from the agent ------------------------------------------------------------------------------

    def offer(self, item: Item) -> None:
        """Take a sealed batch or tombstone. Raises LocalError where its number was used before."""
        if item.key in self._items:
            raise LocalError(f"batch {item.key} was offered twice")
        self._items[item.key] = item
        self.bytes += item.cost
        if self.connected and (item.state == NEW or item.store == self._store):
            self._queue.append(item.key)

    def shed(self, down_to: int, reason: str, kinds: Iterable[str] = ("packets", "calls", "flows")) -> list[Item]:
        """Turn never-sent batches into tombstones, kind by kind, oldest first, until `bytes` is at most `down_to`.

        Returns the tombstones made.
        """
        made: list[Item] = []
        for kind in kinds:
            for item in list(self._items.values()):
                if self.bytes <= down_to:
                    return made
                if item.state == NEW and item.message.kind == kind and not item.message.reason:
                    made.append(self._bury(item, reason))
        return made

    def bury_doubt(self, now: float, older_than: float = 0.0) -> list[Item]:
        """Turn batches in doubt whose store is not the present one into tombstones `in_doubt`; returns them.

        Only those sent `older_than` seconds ago or earlier. Their store may come back and hold them: then its books
        show them as stored, and the other store's as in doubt.
        """
        doubt = [i for i in self._items.values() if i.state == DOUBT and i.store != self._store]
        made = [self._bury(i, "in_doubt") for i in doubt if now - i.sent >= older_than]
        if made and self.connected:
            self._queue.extend(item.key for item in made)
        return made

    def _bury(self, item: Item, reason: str) -> Item:
        stub = item.message
        self.bytes -= item.cost
        self._release(item, False)
        item.message = Tombstone(
            agent=stub.agent,
            epoch=stub.epoch,
            seq=stub.seq,
            kind=stub.kind,
            packets=stub.packets,
            flow_only=stub.flow_only,
            first=stub.first,
            last=stub.last,
            reason=reason,
            ledger=stub.ledger,
        )
        item.data = encode(item.message)
        item.state = NEW
        self.bytes += item.cost
        return item

    # -- copies on disk --------------------------------------------------------------------------------------------

    def find(self, key: tuple[int, int]) -> Item | None:
        """The item of that (epoch, seq), where it is owed."""
        return self._items.get(key)

    def park(self, down_to: int) -> list[Item]:
        """Leave never-sent items to their copies on disk, newest first, until `bytes` is at most `down_to`.

        The oldest of all stays: it is the next to be sent.
        """
        parked: list[Item] = []
        for item in reversed(self._items.values()):
            if self.bytes <= down_to or len(self._items) - len(parked) == 1:
                break
            if item.state == NEW and item.segment > 0:
                self.bytes -= item.cost
                parked.append(item)
        for item in parked:
            del self._items[item.key]
        return parked

    def copies(self, segment: int | None = None) -> list[Item]:
        """The items with a copy on disk, those with one in `segment` where it is given."""
        with_copy = (item for item in self._items.values() if item.segment > 0)
        return [item for item in with_copy if segment in (None, item.segment)]

    def bury(self, item: Item, reason: str) -> Item:
        """Turn one never-sent batch into a tombstone."""
        return self._bury(item, reason)

    def unmarked(self) -> tuple[str, list[Item]]:
        """The present store, and the items out or next in line whose copy does not say that they may be there."""
        if not self.connected:
            return "", []
        ahead = (self._items.get(key) for key in islice(self._queue, max(1, self._window[0])))
        near = [*self._sent.values(), *(item for item in ahead if item is not None)]
        return self._store, [item for item in near if item.segment > 0 and item.marked != self._store]

    def _release(self, item: Item, done: bool) -> None:
        if item.segment > 0:
            self.released.append((item.segment, item.key, done))
        item.segment, item.marked = 0, ""

    # -- what comes in from the hub --------------------------------------------------------------------------------

    def welcome(self, store: str, positions: dict[int, Ranges], window: tuple[int, int], now: float) -> list[Item]:
        """A connection is open: drop what the hub holds, queue the rest. Returns the items that are done."""
        self._store, self._window, self.connected = store, window, True
        self._sent, self._sent_bytes, self.progress = {}, 0, now
        done = [i for i in self._items.values() if i.key[1] in positions.get(i.key[0], ())]
        for item in done:
            self._drop(item)
        self._queue = deque(i.key for i in self._items.values() if i.state == NEW or i.store == store)
        return done

    def ack(self, epoch: int, held: Ranges, window: tuple[int, int], now: float) -> list[Item]:
        """The hub holds these of an epoch. Returns the items that are done by it, oldest first.

        Raises IllegalMoment where no connection is open.
        """
        if not self.connected:
            raise IllegalMoment("an acknowledgement without a connection")
        self._window = window
        done = [item for key, item in self._sent.items() if key[0] == epoch and key[1] in held]
        for item in done:
            self._drop(item)
        if done:
            self.progress = now
        return done

    def reject(self, epoch: int, seq: int, final: bool) -> Item | None:
        """The hub cannot take a batch: send it once more, and after that a tombstone. None where it is not out."""
        item = self._sent.pop((epoch, seq), None)
        if item is None:
            return None
        self._sent_bytes -= item.size
        item.rejects += 1
        item.state = NEW  # whoever refuses it has not stored it
        if final or item.rejects > 1:
            self._bury(item, QUARANTINED)
        self._queue.appendleft(item.key)
        return item

    def disconnected(self, unread: bool = False) -> Item | None:
        """The connection is gone: what was sent on it and not acknowledged is in doubt.

        With `unread` because the hub could not read something: where that can only have been one batch, it is buried
        and returned.
        """
        for item in self._sent.values():
            item.state = DOUBT
        alone = next(iter(self._sent.values())) if len(self._sent) == 1 else None
        self._sent, self._sent_bytes, self.connected = {}, 0, False
        self._queue.clear()
        buried = None
        if unread and self._unread >= ALONE and alone is not None and not alone.message.reason:
            buried = self._bury(alone, QUARANTINED)  # whoever cannot read it has not stored it
        self._unread = 0 if buried is not None else self._unread + unread
        return buried

    # -- what goes out ---------------------------------------------------------------------------------------------

    def next(self, now: float) -> Item | None:
        """The next item that may be sent now, marked as sent; None where nothing is left or the window is full."""
        while self._queue:
            item = self._items.get(self._queue[0])
            if item is None or item.key in self._sent:
                self._queue.popleft()
                continue
            if not self._fits(item) or (self.guarded and item.segment and item.marked != self._store):
                return None
            self._queue.popleft()
            self._mark_sent(item, now)
            return item
        return None

    def _fits(self, item: Item) -> bool:
        batches, size = self._window
        if not self._sent:
            return True  # one item always fits: a small window must not be a stall, nor one of nothing a silent one
        if self._unread >= ALONE:
            return False
        return len(self._sent) < batches and self._sent_bytes + item.size <= size

    def _mark_sent(self, item: Item, now: float) -> None:
        if not self._sent:
            self.progress = now
        item.state, item.store, item.sent = SENT, self._store, now
        self._sent[item.key] = item
        self._sent_bytes += item.size

    def _drop(self, item: Item) -> None:
        del self._items[item.key]
        self.bytes -= item.cost
        self._unread = 0
        self._release(item, True)
        if self._sent.pop(item.key, None) is not None:
            self._sent_bytes -= item.size

    def waiting(self, now: float) -> float:
        """Seconds for which something was outstanding and nothing was acknowledged; 0 where nothing is outstanding."""
        return max(0.0, now - self.progress) if self._sent else 0.0


class Receiver:
    """What a hub has of one (agent, epoch): held for good, or queued for the next commit."""

    __slots__ = ("_queued", "held")

    def __init__(self, held: Ranges | None = None) -> None:
        self.held = Ranges() if held is None else held
        self._queued: set[int] = set()

    def offer(self, seq: int) -> str:
        """`take` it (it is queued from now on), or it is `queued` or `held` already."""
        if seq in self.held:
            return "held"
        if seq in self._queued:
            return "queued"
        self._queued.add(seq)
        return "take"

    def commit(self, seqs: Iterable[int]) -> None:
        """These are durable."""
        for seq in seqs:
            self._queued.discard(seq)
            self.held.add(seq)

    def forget(self, seqs: Iterable[int]) -> None:
        """These were queued and will not be stored: they may be offered again."""
        self._queued.difference_update(seqs)

    @property
    def idle(self) -> bool:
        """Whether nothing is queued."""
        return not self._queued

    @property
    def blank(self) -> bool:
        """Whether nothing is held and nothing queued."""
        return not self.held and not self._queued

    def position(self) -> tuple[int, list[list[int]]]:
        """(watermark, ranges held above it), as an acknowledgement carries them: the lowest MAX_HELD ranges.

        What is cut is sent again by a sender that does not know better, and dropped as held.
        """
        return self.held.watermark, [list(r) for r in self.held.above[:MAX_HELD]]
