"""Agents and hubs together over lines that break, in any order of steps: the books balance at each, and at the end
every packet has one fate. And that this machine finds faults where there are some.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from world import Hub, Node

from agent.uplink.machine import State
from hub.ingest.agents import Register
from hub.ingest.session import Session
from hub.store.books import Books, Line
from protocol.delivery import Item, Receiver, Sender
from protocol.ledger import Held, Report, at_least, settle
from protocol.ranges import Ranges

FEW = st.integers(1, 3)
MANY = st.integers(1, 8)
WHICH = st.sampled_from(["a", "b"])


class Delivery(RuleBasedStateMachine):
    """One agent at a time, two hubs with a store each, and everything that can go wrong between them."""

    def __init__(self) -> None:
        super().__init__()
        self.hubs = {name: Hub(name) for name in ("a", "b")}
        self.nodes: list[Node] = []
        self.wires: list[Any] = []
        self.new_node()

    @property
    def node(self) -> Node:
        return self.nodes[-1]

    def new_node(self) -> None:
        self.nodes.append(Node(self.hubs, self.next_epoch()))

    def next_epoch(self) -> int:
        return 1000 - len(self.nodes)  # not ordered

    # -- the agent -------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.node.halted)
    @rule(packets=FEW, spoil=st.sampled_from(["", "", "", "", "body", "store"]))
    def capture(self, packets: int, spoil: str) -> None:
        """Packets come. Of a batch that is spoilt the columns lie, or the engine refuses them."""
        self.node.outbox.spoil = spoil
        self.node.capture(packets)

    @rule(level=st.sampled_from(["packets", "packets", "flows"]))
    def pace(self, level: str) -> None:
        """What is due is sealed, and the ring is full or not."""
        if not self.node.finished:
            self.node.pace()
            self.node.pipeline.level = level

    @precondition(lambda self: len(self.node.outbox.content) > 9)
    @rule()
    def stop(self) -> None:
        self.node.uplink.stop()

    @precondition(lambda self: self.node.halted)
    @rule()
    def finish(self) -> None:
        self.node.finish()

    @precondition(lambda self: self.node.uplink.timers)
    @rule(which=st.integers(0, 3))
    def time_passes(self, which: int) -> None:
        timers = self.node.uplink.timers
        self.node.uplink.fire(timers[which % len(timers)])
        self.restart_if_over()

    @precondition(lambda self: self.node.wire is not None)
    @rule(detector=st.sampled_from(["progress", "echo", "ping"]))
    def stall(self, detector: str) -> None:
        self.node.stall(detector)

    @precondition(lambda self: self.node.outbox.done)
    @rule()
    def crash_agent(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.node.crash()
        self.new_node()

    def restart_if_over(self) -> None:
        if self.node.state is State.STOPPED:
            self.restart()

    # -- the link --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.node.uplink.opening)
    @rule(which=WHICH)
    def open(self, which: str) -> None:
        self.node.open(which)
        if self.node.wire is not None:
            self.wires.append(self.node.wire)

    @precondition(lambda self: self.node.wire is None)
    @rule(which=WHICH)
    def connect(self, which: str) -> None:
        """The backoff ends, and a connection is made as far as the welcome."""
        self.start_hub(which)
        self.node.uplink.fire(self.node.uplink._woken)
        self.open(which)
        self.node.wire.carry_in(1)
        self.hear(1)

    @rule(batches=MANY, echo=st.booleans())
    def transmit(self, batches: int, echo: bool) -> None:
        self.node.transmit(batches)
        if echo:
            self.node.echo()

    @precondition(lambda self: self.wires)
    @rule(which=st.integers(0, 3), messages=MANY)
    def arrive(self, which: int, messages: int) -> None:
        """The hub reads, from the newest line or from an old one."""
        wire = self.wires[-1 - which % len(self.wires)]
        wire.carry_in(messages)
        if wire.hub_gone:
            self.wires.remove(wire)

    @rule(messages=MANY)
    def hear(self, messages: int) -> None:
        """The agent reads."""
        self.node.hear(messages)
        self.restart_if_over()

    @rule(inwards=MANY, outwards=MANY)
    def talk(self, inwards: int, outwards: int) -> None:
        """Both read."""
        self.node.transmit(inwards)
        if self.node.wire is not None:
            self.node.wire.carry_in(inwards)
        self.hear(outwards)

    @precondition(lambda self: self.node.wire is not None)
    @rule(packets=FEW)
    def all_goes_well(self, packets: int) -> None:
        """Packets come, and what is owed is stored and acknowledged."""
        if not self.node.halted:
            self.node.capture(packets)
        self.exchange(self.node, "a")
        self.restart_if_over()

    @precondition(lambda self: self.node.wire is not None)
    @rule(keep=st.integers(0, 4))
    def cut(self, keep: int) -> None:
        self.node.cut(keep)

    @precondition(lambda self: self.node.wire is not None)
    @rule(batches=MANY, arrive=st.integers(0, 8), keep=st.integers(0, 2), which=WHICH)
    def cut_while_sending(self, batches: int, arrive: int, keep: int, which: str) -> None:
        """What the hub has read and what is under way is in doubt, and the next hub is there at once."""
        self.node.transmit(batches)
        self.node.wire.carry_in(arrive)
        self.node.cut(keep)
        self.connect(which)

    @precondition(lambda self: self.node.wire is not None)
    @rule(fuse=st.integers(0, 3))
    def restart_the_hub_while_sending(self, fuse: int) -> None:
        hub = self.node.wire.hub
        self.node.transmit(8)
        self.node.wire.carry_in(8)
        hub.write(fuse)
        hub.crash()
        self.hear(8)
        if self.node.wire is None:
            self.connect(hub.name)

    @precondition(lambda self: self.node.state in (State.STREAMING, State.DRAINING) and self.node.outbox.stores)
    @rule()
    def give_doubt_up(self) -> None:
        self.node.outbox.bury_doubt(0.0)

    # -- the hubs --------------------------------------------------------------------------------------------------

    @rule(which=WHICH, tell=st.booleans())
    def commit(self, which: str, tell: bool) -> None:
        """A turn of the writer; the loop hears of it now or later."""
        self.hubs[which].write()
        if tell:
            self.hubs[which].tell()

    @rule(which=WHICH, fuse=st.integers(0, 3))
    def kill_while_writing(self, which: str, fuse: int) -> None:
        self.hubs[which].write(fuse)
        self.start_hub(which)

    @rule(which=WHICH, orderly=st.booleans(), restart=st.booleans())
    def stop_hub(self, which: str, orderly: bool, restart: bool) -> None:
        if self.hubs[which].up and orderly:
            self.hubs[which].drain()
        else:
            self.hubs[which].crash()
        if restart:
            self.start_hub(which)

    @rule(which=WHICH)
    def start_hub(self, which: str) -> None:
        if not self.hubs[which].up:
            self.hubs[which].start()

    @rule(which=WHICH, trouble=st.sampled_from(["before", "after"]), calm=st.integers(0, 2))
    def trouble_with_the_disk(self, which: str, trouble: str, calm: int) -> None:
        self.hubs[which].store.trouble = [trouble, *[""] * calm]

    # -- what holds after each step --------------------------------------------------------------------------------

    @invariant()
    def nothing_that_must_not_happen(self) -> None:
        assert not [bug for hub in self.hubs.values() for bug in hub.log.bugs]
        assert all(node.pipeline.report.conserved for node in self.nodes)

    @invariant()
    def each_packet_is_stored_at_most_once(self) -> None:
        parts = [part for hub in self.hubs.values() for part in hub.disk.parts]
        stored = Counter((part.place[1], part.table.name, number) for part in parts for number in part.rows)
        assert not [what for what, times in stored.items() if times > 1]
        for part in parts:
            content = self.contents(part.place[1])[part.place[2]]
            assert (set(part.rows), set(part.flow_only)) == (content.rows, content.flow_only)
            assert not content.poison

    @invariant()
    def acknowledged_is_stored_and_the_rest_is_owed(self) -> None:
        for node in self.nodes:
            places = self.fates(node)
            assert node.outbox.done <= places.keys()
            owed = node.outbox.content.keys() - node.outbox.done
            assert node.outbox.batches == len(owed)

    @invariant()
    def the_books_of_each_hub_balance(self) -> None:
        for hub in self.hubs.values():
            if not hub.up:
                continue
            present = Counter[tuple[str, int]]()
            for part in hub.disk.parts:
                present[part.place[:2]] += len(part.rows) if part.table.name == "packets" else 0
            register = hub.ingest.register
            ledger = register.ledger()
            assert ledger["balanced"], ledger
            assert register.tally() == (0, sum(not books["complete"] for books in ledger["agents"]))
            ends = [books["unreported_since"] for books in ledger["agents"] if books["unreported_since"]]
            assert sorted(run["unreported_since"] for run in register.unreported()) == sorted(ends)
            if not hub.outcomes:  # it hears of rows after they are there
                rows = {(books["agent"], int(books["epoch"], 16)): books["row"] for books in ledger["agents"]}
                assert {run: count for run, count in rows.items() if count} == +present

    @invariant()
    def captured_is_the_sum_of_all_fates(self) -> None:
        for node in self.nodes:
            self.balance(node)

    def contents(self, epoch: int) -> Any:
        return next(node for node in self.nodes if node.epoch == epoch).outbox.content

    def fates(self, node: Node) -> dict[int, str]:
        """Of each batch that a store holds: `stored`, or its tombstone's reason. In doubt and stored is stored."""
        fates: dict[int, str] = {}
        for line in self.lines(node):
            if fates.get(line.seq) != "stored":
                fates[line.seq] = line.reason or "stored"
        return fates

    def lines(self, node: Node) -> Iterator[Line]:
        for hub in self.hubs.values():
            yield from (line for line in hub.disk.lines if line.epoch == node.epoch)

    def balance(self, node: Node) -> None:
        """The books of one run over both stores, held against what is known of each packet."""
        fates, bins = self.fates(node), dict[int, set[str]]()
        for seq, content in node.outbox.content.items():
            for number in content.rows if content.kind == "packets" else content.flow_only:
                bins.setdefault(number, set()).add(fates.get(seq, "pending"))
        assert all(len(fate) == 1 for fate in bins.values())
        here = Counter(fate.pop() for fate in bins.values())
        held, report, newest, recovered = Held(), Report(), 0, False
        counted = set[int]()  # a tombstone may be in both stores, each of which has books of its own
        for line in self.lines(node):
            if (line.reason or "stored") == fates[line.seq] and line.seq not in counted:
                counted.add(line.seq)
                held.add(line.kind, line.rows, line.packets, line.flow_only, line.reason)
            if line.ledger and line.seq > newest:
                newest, report = line.seq, Report.from_map(json.loads(line.ledger))
                recovered = bool(line.recovered)
        if node.alive:
            report = node.pipeline.report
        elif recovered:
            report = at_least(report, held)
        books = settle(report, held)
        assert books.balanced, books
        assert (
            books.captured == books.row + books.flow_only + sum(books.lost.values()) + books.quarantined + books.pending
        )
        if node.alive:
            assert books.captured == len(node.levels)
            open_ = len(node.levels) - sum(here.values())
            assert (books.pending, books.quarantined) == (here["pending"] + open_, here["quarantined"])
            assert books.row + books.flow_only == here["stored"]
            assert (
                sum(books.lost.values()) == sum(here.values()) - here["stored"] - here["pending"] - here["quarantined"]
            )

    # -- the end ---------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for hub in self.hubs.values():
                hub.crash()

    def settle(self) -> None:
        """The link heals: everything owed arrives, the agent leaves, each packet has one fate."""
        node = self.node
        for hub in self.hubs.values():
            hub.store.trouble = []
            if not hub.up:
                hub.start()
        for wire in self.wires:
            wire.carry_in(1000)
        node.hear(1000)  # a late hello may have superseded us
        node.uplink.stop()
        node.finish()
        for which in "abab":
            for _ in range(len(node.outbox.content) + 8):
                self.exchange(node, which)
                if node.state is State.STOPPED:
                    break
            if node.state is State.STOPPED:
                break
            node.cut(0)  # what is left is in doubt at the other hub
        self.check_end(node)

    def exchange(self, node: Node, which: str) -> None:
        if node.state is State.BACKOFF:
            node.uplink.fire(node.uplink._woken)
        node.open(which)
        node.transmit(100)
        if node.wire is not None:
            node.wire.carry_in(100)
        for hub in self.hubs.values():
            if hub.up:
                hub.write()
            while hub.outcomes:
                hub.tell()
        node.hear(100)

    def check_end(self, node: Node) -> None:
        self.each_packet_is_stored_at_most_once()
        self.the_books_of_each_hub_balance()
        self.captured_is_the_sum_of_all_fates()
        assert node.state is State.STOPPED
        assert node.uplink.drained
        fates = self.fates(node)
        assert sorted(fates) == list(range(1, len(node.outbox.content) + 1)), (
            "a number that neither came nor was given up"
        )
        binned = Counter[int]()
        for seq, content in node.outbox.content.items():
            numbers = content.rows if content.kind == "packets" else content.flow_only
            binned.update(numbers)
            assert (fates[seq] == "quarantined") == content.poison or fates[seq] in ("shed", "in_doubt")
            if content.kind == "packets":
                assert {node.levels[number] for number in numbers} == {"packets"}
        assert binned == Counter(node.levels.keys())


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)


# -- that the machine finds what is wrong ------------------------------------------------------------------------------


class SameEpoch(Delivery):
    """Every run of the agent has the epoch of the first."""

    def next_epoch(self) -> int:
        return 1000


def acknowledge_what_is_queued(patch: pytest.MonkeyPatch) -> None:
    offer = Receiver.offer

    def early(self: Receiver, seq: int) -> str:
        fate = offer(self, seq)
        self.held.add(seq)
        return fate

    patch.setattr(Receiver, "offer", early)


def forget_doubt(patch: pytest.MonkeyPatch) -> None:
    disconnected = Sender.disconnected

    def forgetful(self: Sender, unread: bool = False) -> None:
        sent = list(self._sent.values())
        disconnected(self, unread)
        for item in sent:
            item.state = "new"

    patch.setattr(Sender, "disconnected", forgetful)


def take_everything(patch: pytest.MonkeyPatch) -> None:
    """Both nets: the receiver's, and the store's below it."""
    patch.setattr(Receiver, "offer", lambda self, seq: "take")
    patch.setattr(Books, "fresh", lambda self, entries: list(entries))


def shed_without_a_tombstone(patch: pytest.MonkeyPatch) -> None:
    def bury(self: Sender, item: Item, reason: str) -> Item:
        self._drop(item)
        return item

    patch.setattr(Sender, "_bury", bury)


def forget_at_restart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Register, "_load", lambda self, stored: None)


def leave_rows_without_lines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("world.rebuild", lambda found, books, given, now: [])


def watermark_over_gaps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ranges, "watermark", property(lambda self: self._last[-1] if self._last else 0))


def give_up_doubt_as_if_never_sent(patch: pytest.MonkeyPatch) -> None:
    def rest(self: Sender, now: float, older_than: float = 0.0) -> list[Item]:
        doubt = [item for item in self._items.values() if item.state == "doubt"]
        for item in doubt:
            item.state, item.store = "new", ""
        self._queue.extend(item.key for item in doubt if self.connected)
        return []

    patch.setattr(Sender, "bury_doubt", rest)


def swallow_a_refusal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "reject", lambda self, message, code, detail: None)


def count_tombstones_as_rows(patch: pytest.MonkeyPatch) -> None:
    add = Held.add
    patch.setattr(
        Held, "add", lambda self, kind, rows, packets, only, reason="": add(self, kind, packets, packets, only)
    )


FAULTS = [
    acknowledge_what_is_queued,
    forget_doubt,
    take_everything,
    shed_without_a_tombstone,
    forget_at_restart,
    leave_rows_without_lines,
    watermark_over_gaps,
    give_up_doubt_as_if_never_sent,
    swallow_a_refusal,
    count_tombstones_as_rows,
]
SEARCH = settings(
    max_examples=400,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Delivery, settings=SEARCH)


def test_a_run_that_takes_the_epoch_of_another_is_found() -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(SameEpoch, settings=SEARCH)
