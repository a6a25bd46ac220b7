"""Sender and receiver together, over a hostile link, and each rule by itself."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.delivery import DOUBT, NEW, SENT, Receiver, Sender, item_of
from protocol.errors import IllegalMoment, LocalError
from protocol.ledger import QUARANTINED
from protocol.messages import Batch
from protocol.ranges import Ranges

EPOCH = 7
WIDE = (64, 1 << 20)


def batch(seq: int, kind: str = "packets", size: int = 100) -> Batch:
    return Batch("a", EPOCH, seq, kind, 1, 1, 0, 0, 1, size, 0, b"x" * size)


def sender_with(*seqs: int, window: tuple[int, int] = WIDE) -> Sender:
    sender = Sender()
    for seq in seqs:
        sender.offer(item_of(batch(seq), 0.0))
    sender.welcome("s1", {}, window, 0.0)
    return sender


def sent_now(sender: Sender, now: float = 1.0) -> list[int]:
    out = []
    while (item := sender.next(now)) is not None:
        out.append(item.message.seq)
    return out


def test_sends_in_order_within_the_window() -> None:
    sender = sender_with(1, 2, 3, window=(2, 1 << 20))
    assert sent_now(sender) == [1, 2]
    sender.ack(EPOCH, Ranges([(1, 1)]), (2, 1 << 20), 2.0)
    assert sent_now(sender) == [3]


def test_a_window_smaller_than_a_batch_lets_one_through() -> None:
    sender = sender_with(1, 2, window=(8, 10))
    assert sent_now(sender) == [1]


def test_a_number_cannot_be_offered_twice() -> None:
    sender = sender_with(1)
    with pytest.raises(LocalError):
        sender.offer(item_of(batch(1), 0.0))


def test_an_ack_without_a_connection_is_refused() -> None:
    with pytest.raises(IllegalMoment):
        Sender().ack(EPOCH, Ranges([(1, 1)]), WIDE, 0.0)


def test_in_doubt_goes_to_its_store_only_and_is_settled_by_it() -> None:
    sender = sender_with(1, 2)
    assert sent_now(sender) == [1, 2]
    sender.disconnected()
    sender.offer(item_of(batch(3), 2.0))
    sender.welcome("other", {}, WIDE, 3.0)
    assert sent_now(sender) == [3]
    sender.disconnected()
    done = sender.welcome("s1", {EPOCH: Ranges([(1, 1)])}, WIDE, 4.0)
    assert [item.message.seq for item in done] == [1]
    assert sent_now(sender) == [2]  # 3 is in doubt at the other store


def test_doubt_that_has_to_go_becomes_a_tombstone_elsewhere() -> None:
    sender = sender_with(1)
    sent_now(sender)
    sender.disconnected()
    sender.welcome("other", {}, WIDE, 10.0)
    assert sent_now(sender) == []
    assert [i.message.reason for i in sender.bury_doubt(100.0, 60.0)] == ["in_doubt"]
    item = sender.next(100.0)
    assert item is not None
    assert item.message.reason == "in_doubt"
    assert item.message.packets == 1


def test_shed_takes_rows_before_flows_and_never_what_was_sent() -> None:
    sender = Sender()
    for seq, kind in enumerate(["flows", "packets", "packets", "flows"], start=1):
        sender.offer(item_of(batch(seq, kind, 5000), 0.0))
    sender.welcome("s1", {}, (1, 1 << 20), 0.0)
    assert sent_now(sender) == [1]
    made = sender.shed(15_000, "shed")
    assert [item.message.seq for item in made] == [2, 3]
    assert sender.bytes <= 15_000
    sender.shed(0, "shed")
    assert next(i.state for i in sender._items.values()) == SENT
    assert not sender._items[EPOCH, 1].message.reason


def test_a_rejected_batch_belongs_to_no_store() -> None:
    sender = sender_with(1)
    assert sent_now(sender) == [1]
    sender.reject(EPOCH, 1, False)
    sender.disconnected()
    sender.welcome("other", {}, WIDE, 3.0)
    assert sent_now(sender) == [1]


def test_patience_with_a_store_counts_from_the_sending() -> None:
    sender = sender_with(1)
    assert sent_now(sender, 100.0) == [1]  # sealed at 0
    sender.disconnected()
    sender.welcome("other", {}, WIDE, 110.0)
    assert sender.bury_doubt(120.0, 60.0) == []
    assert len(sender.bury_doubt(161.0, 60.0)) == 1


def test_a_rejected_batch_goes_once_more_and_then_as_a_tombstone() -> None:
    sender = sender_with(1, 2)
    assert sent_now(sender) == [1, 2]
    assert sender.reject(EPOCH, 1, False) is not None
    assert sent_now(sender) == [1]
    sender.reject(EPOCH, 1, True)
    item = sender.next(3.0)
    assert item is not None
    assert item.message.reason == "quarantined"
    assert sender.reject(EPOCH, 99, True) is None


def test_waiting_counts_only_while_something_is_outstanding() -> None:
    sender = sender_with(1, 2)
    assert sender.waiting(100.0) == 0.0
    sent_now(sender, now=100.0)
    assert sender.waiting(103.0) == 3.0
    sender.ack(EPOCH, Ranges([(1, 1)]), WIDE, 104.0)
    assert sender.waiting(105.0) == 1.0
    sender.ack(EPOCH, Ranges([(1, 2)]), WIDE, 106.0)
    assert sender.waiting(200.0) == 0.0


def test_a_receiver_takes_each_number_once() -> None:
    receiver = Receiver()
    assert [receiver.offer(s) for s in (2, 2, 1)] == ["take", "queued", "take"]
    receiver.commit([2])
    assert receiver.offer(2) == "held"
    assert receiver.position() == (0, [[2, 2]])
    receiver.commit([1])
    assert receiver.position() == (2, [])
    receiver.offer(3)
    receiver.forget([3])
    assert receiver.offer(3) == "take"


def test_a_batch_that_no_hub_can_read_goes_as_a_tombstone_and_those_around_it_stay() -> None:
    sender = sender_with(1, 2, 3)
    buried = []
    for _ in range(3):
        sent_now(sender)
        buried.append(sender.disconnected(unread=True))
        sender.welcome("s1", {EPOCH: Ranges([(1, 1)])}, WIDE, 3.0)  # 1 was read, 2 never is
    assert [item and item.message.seq for item in buried] == [None, None, None]  # the first of them brought 1 through
    assert sent_now(sender) == [2]  # alone
    item = sender.disconnected(unread=True)
    assert item is not None
    assert (item.message.seq, item.message.reason) == (2, QUARANTINED)
    sender.welcome("s1", {}, WIDE, 4.0)
    assert sent_now(sender) == [2, 3]


def test_a_link_that_just_breaks_buries_nothing() -> None:
    sender = sender_with(1)
    for _ in range(10):
        sent_now(sender)
        assert sender.disconnected() is None
        sender.welcome("s1", {}, WIDE, 3.0)
    assert sent_now(sender) == [1]


UNREADABLE = 5
"""No hub can read every fifth batch."""


class HostileLink(RuleBasedStateMachine):
    """Batches and acknowledgements are lost with connections, the hub crashes, stores change, batches cannot be read:
    each other batch lands once."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = Sender()
        self.now = 0.0
        self.seq = 0
        self.stores: dict[str, dict[int, str]] = {"s1": {}, "s2": {}}  # what is on disk: seq -> batch or its reason
        self.store = ""
        self.receiver = Receiver()
        self.wire: list[tuple[int, str]] = []  # sent, not yet seen by the hub
        self.queued: list[tuple[int, str]] = []  # seen, not yet on disk
        self.done: set[int] = set()

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    @rule(kind=st.sampled_from(["packets", "flows"]), size=st.integers(1, 2000))
    def seal(self, kind: str, size: int) -> None:
        self.seq += 1
        self.sender.offer(item_of(batch(self.seq, kind, size), self.tick()))

    @rule(store=st.sampled_from(["s1", "s2"]))
    def connect(self, store: str) -> None:
        self.sender.disconnected()
        if store != self.store:
            self.crash_hub()
            self.store = store
        self.wire = []
        held = Ranges((s, s) for s in self.stores[store])
        self.receiver = Receiver(Ranges(held))
        self.queued = []
        self.done |= {i.message.seq for i in self.sender.welcome(store, {EPOCH: held}, (4, 5000), self.tick())}

    @precondition(lambda self: self.sender.connected)
    @rule()
    def send(self) -> None:
        item = self.sender.next(self.tick())
        if item is not None:
            self.wire.append((item.message.seq, item.message.reason))

    @precondition(lambda self: self.wire)
    @rule()
    def arrive(self) -> None:
        seq, reason = self.wire.pop(0)
        if seq % UNREADABLE == 0 and not reason:
            self.sender.disconnected(unread=True)
            self.wire = []
        elif self.receiver.offer(seq) == "take":
            self.queued.append((seq, reason))

    @precondition(lambda self: self.queued)
    @rule()
    def commit(self) -> None:
        for seq, reason in self.queued:
            assert seq not in self.stores[self.store]
            self.stores[self.store][seq] = reason or "batch"
        self.receiver.commit([seq for seq, _ in self.queued])
        self.queued = []

    @precondition(lambda self: self.sender.connected)
    @rule()
    def acknowledge(self) -> None:
        watermark, held = self.receiver.position()
        ranges = Ranges((a, b) for a, b in held)
        if watermark:
            ranges.add(1, watermark)
        self.done |= {i.message.seq for i in self.sender.ack(EPOCH, ranges, (4, 5000), self.tick())}

    @rule()
    def crash_hub(self) -> None:
        self.sender.disconnected()
        self.wire, self.queued = [], []
        self.receiver = Receiver(Ranges((s, s) for s in self.stores.get(self.store, ())))

    @rule(down_to=st.integers(0, 4000))
    def shed(self, down_to: int) -> None:
        self.sender.shed(down_to, "shed")

    @rule()
    def bury(self) -> None:
        self.sender.bury_doubt(self.tick())

    @invariant()
    def only_what_cannot_be_read_is_refused(self) -> None:
        refused = {i.message.seq for i in self.sender._items.values() if i.message.reason == QUARANTINED}
        assert all(seq % UNREADABLE == 0 for seq in refused)

    @invariant()
    def acknowledged_means_stored(self) -> None:
        anywhere = set(self.stores["s1"]) | set(self.stores["s2"])
        assert self.done <= anywhere

    @invariant()
    def stored_as_a_batch_at_most_once(self) -> None:
        once = [seq for store in self.stores.values() for seq, what in store.items() if what == "batch"]
        assert len(once) == len(set(once))

    @invariant()
    def nothing_is_forgotten(self) -> None:
        owed = {seq for _, seq in self.sender._items}
        assert owed | self.done == set(range(1, self.seq + 1))
        assert self.sender.bytes == sum(item.cost for item in self.sender._items.values())
        states = {item.state for item in self.sender._items.values()}
        assert states <= ({NEW, SENT, DOUBT} if self.sender.connected else {NEW, DOUBT})


TestHostileLink = HostileLink.TestCase
TestHostileLink.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
