"""The spool with real files: what a crash at any moment leaves, what a full disk and a broken one do."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.spool.folder import Folder, Locked
from agent.spool.outbox import SpooledOutbox
from agent.spool.spooler import HUNG, RETRY, Spooler
from protocol.messages import Batch, Tombstone
from protocol.ranges import Ranges

WIDE = (64, 1 << 20)


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict]] = []

    def __getattr__(self, level: str):
        return lambda event, **more: self.lines.append((event, more))

    def said(self, event: str) -> list[dict]:
        return [more for name, more in self.lines if name == event]


class Node:
    """An agent's outbox and spool in a folder, with the spooler's steps by hand."""

    def __init__(self, root: Path, *, bound: int = 1 << 20, disk: int = 4 << 20, agent: str = "n1") -> None:
        self.log = Log()
        self.folder = Folder(root, agent)
        self.outbox = SpooledOutbox(bound, disk)
        self.spooler = Spooler(self.folder, self.outbox, agent, self.log)
        self.late = 0.0

    def put(self, seq: int, kind: str = "packets", size: int = 1000, epoch: int = 1) -> None:
        body = random.Random(f"{epoch}/{seq}").randbytes(size)
        self.outbox.put(Batch("n1", epoch, seq, kind, 1, 1, 0, 0, 1, size, 0, body), wait=False)

    def step(self, everything: bool = False) -> None:
        """What the thread does once; with `everything`, as at the end."""
        self.late += RETRY
        self.spooler.turn(monotonic() + self.late, everything)

    def die(self) -> None:
        """kill -9: all that is in memory is gone, and the lock with it."""
        self.folder.close()

    def send(self) -> list[Batch | Tombstone]:
        from protocol.codec import decode

        sent = []
        while (item := self.outbox.next()) is not None:
            sent.append(decode(item.data, "agent")[0])
        return sent


def test_what_is_not_acknowledged_is_found_by_the_next_run(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for seq in (1, 2, 3):
        node.put(seq)
    node.step(everything=True)
    node.die()
    again = Node(tmp_path)
    again.step()
    again.step()
    assert again.outbox.streams == [1]
    assert again.outbox.batches == 3
    assert again.outbox.pending_packets == 3
    again.outbox.welcome("s", {}, WIDE)
    again.step()  # says on disk that they go there
    assert [(m.epoch, m.seq) for m in again.send()] == [(1, 1), (1, 2), (1, 3)]
    again.outbox.ack(1, Ranges([(1, 3)]), WIDE)
    again.step()
    assert again.folder.numbers() == []
    assert again.outbox.batches == 0


def test_nothing_is_written_while_acknowledgements_come(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.outbox.welcome("s", {}, WIDE)
    for seq in range(1, 50):
        node.put(seq)
        node.spooler.turn(monotonic())
        assert node.send()
        node.outbox.ack(1, Ranges([(1, seq)]), WIDE)
    assert node.spooler.look().written_bytes == 0
    assert node.folder.numbers() == []


def test_an_item_with_a_copy_is_not_sent_before_the_copy_says_where(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(1)
    node.step(everything=True)
    node.outbox.welcome("s", {}, WIDE)
    assert node.send() == []
    node.step()
    assert len(node.send()) == 1
    node.die()
    again = Node(tmp_path)
    again.step()
    again.step()
    assert again.outbox.stores == ["s"]
    again.outbox.welcome("other", {}, WIDE)
    again.step()
    assert again.send() == []


def test_what_is_being_copied_once_more_is_not_sent_before_the_new_copy_says_where(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(1, "flows")
    node.step(everything=True)
    node.outbox.welcome("s", {}, WIDE)
    node.step()  # the copy says `s`
    copies = node.outbox.rewrite(node.outbox.segments[0], "packets")  # its file has to go
    sent = node.send()
    node.spooler._write(copies, monotonic())  # of two records of a batch the later one counts
    node.die()
    again = Node(tmp_path)
    again.step()
    again.step()
    again.outbox.welcome("other", {}, WIDE)
    again.step()
    assert len(sent + again.send()) == 1


def test_a_disk_that_hangs_holds_up_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(1)
    node.step(everything=True)
    node.outbox.welcome("s", {}, WIDE)
    node.spooler._busy = monotonic() - HUNG / 2  # in the midst of a write
    assert node.send() == []
    node.spooler._busy = monotonic() - HUNG
    assert len(node.send()) == 1


def test_two_agents_cannot_share_a_spool_and_two_names_can_share_a_folder(tmp_path: Path) -> None:
    one, other, third = (Folder(tmp_path, name) for name in ("n1", "n1", "n1/w1"))
    one.open()
    with pytest.raises(Locked, match="used by another agent: give each its own --spool or --node"):
        other.open()
    third.open()
    one.close()
    other.open()


def test_a_full_spool_sheds_the_oldest_rows_and_keeps_flows(tmp_path: Path) -> None:
    node = Node(tmp_path, bound=256 << 10, disk=1 << 20)
    for seq in range(1, 401):
        node.put(seq, "flows" if seq % 10 == 0 else "packets", 8000)
        node.step()
        assert node.outbox.disk_bytes <= 1 << 20
        assert sum(p.stat().st_size for p in node.folder.path.glob("*.segment")) == node.outbox.disk_bytes
        assert node.outbox.bytes <= 256 << 10
    assert len(node.log.said("spool full; the oldest rows are shed")) >= 1
    node.die()
    again = Node(tmp_path, bound=64 << 20)
    again.step()
    again.step()
    again.outbox.welcome("s", {}, (1000, 1 << 30))
    again.step()
    sent = sorted(again.send(), key=lambda m: m.seq)
    kinds = [(m.kind, m.reason if isinstance(m, Tombstone) else "") for m in sent]
    assert [m.seq for m in sent] == list(range(1, sent[-1].seq + 1))
    assert ("packets", "shed") in kinds
    assert ("flows", "shed") not in kinds
    rows = [m.seq for m in sent if isinstance(m, Batch) and m.kind == "packets"]
    shed = [m.seq for m in sent if isinstance(m, Tombstone)]
    assert min(rows) > max(shed)  # the oldest went
    assert node.outbox.lost["shed"] >= len(shed)


def test_more_than_memory_comes_back_from_disk(tmp_path: Path) -> None:
    node = Node(tmp_path, bound=256 << 10, disk=64 << 20)
    for seq in range(1, 301):
        node.put(seq, size=8000)
        node.step()
    assert node.outbox.bytes <= 256 << 10
    assert node.outbox.batches == node.outbox.pending_packets == 300
    assert node.outbox.lost == {}
    assert node.outbox.level("packets") == "packets"
    node.outbox.welcome("s", {}, (8, 1 << 20))
    got: list[int] = []
    while node.outbox.batches:
        node.step()
        sent = node.send()
        assert sent
        got += [m.seq for m in sent if isinstance(m, Batch)]
        node.outbox.ack(1, Ranges((m.seq, m.seq) for m in sent), (8, 1 << 20))
    assert sorted(got) == list(range(1, 301))
    node.step()
    assert node.folder.numbers() == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_said_once_and_tried_again(tmp_path: Path, error: int, monkeypatch) -> None:
    node = Node(tmp_path)
    node.put(1)
    write, failing = os.write, [True]

    def torn(file: int, data: bytes) -> int:
        if not failing[0]:
            return write(file, data)
        if len(data) < 200:
            raise OSError(error, os.strerror(error))
        return write(file, data[: len(data) // 2])

    monkeypatch.setattr("agent.spool.folder.os", SimpleNamespace(**{**vars(os), "write": torn}))
    for _ in range(3):
        node.step(everything=True)
    assert len(node.log.said("spool failed; going on in memory")) == 1
    view = node.spooler.look()
    assert view.failing
    assert view.errors[errno.errorcode[error]] == 3
    node.outbox.welcome("s", {}, WIDE)
    assert len(node.send()) == 1  # nothing waits for the disk
    node.outbox.disconnected()
    failing[0] = False
    node.step(everything=True)
    assert len(node.log.said("spool works again")) == 1
    node.die()
    again = Node(tmp_path)
    again.step()
    again.step()
    assert again.outbox.batches == 1
    assert again.outbox.stores == ["s"]


def test_files_that_are_damaged_or_foreign_cost_what_they_hold(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(1)
    node.put(2)
    node.step(everything=True)
    node.die()
    path = next(node.folder.path.glob("*.segment"))
    data = bytearray(path.read_bytes())
    data[-700] ^= 1  # in the body of the second
    path.write_bytes(data)
    (node.folder.path / "0000000007.segment").write_bytes(b"nodetap spool\n and more")
    again = Node(tmp_path)
    again.step()
    again.step()
    assert again.spooler.look().lost == {"damaged": 1, "unreadable": 1}
    again.outbox.welcome("s", {}, WIDE)
    again.step()
    first, second = again.send()
    assert isinstance(first, Batch)
    assert (second.seq, second.packets, second.reason) == (2, 1, "spool_damaged")
    assert again.outbox.lost == {"spool_damaged": 1}


class Crashes(RuleBasedStateMachine):
    """Runs that crash at any moment, two hubs with stores of their own, connections that break: each batch lands once,
    and what was copied before a crash is stored, or a tombstone stands for it.
    """

    @initialize(bound=st.sampled_from([8_000, 40_000, 1 << 20]))
    def begin(self, bound: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="spool"))
        self.bound = bound
        self.epoch = self.seq = 0
        self.safe: set[tuple[int, int]] = set()  # what no crash may lose
        self.stores: dict[str, dict[tuple[int, int], str]] = {"s1": {}, "s2": {}}
        self.store = ""
        self.wire: list[Batch | Tombstone] = []
        self.start()

    def start(self) -> None:
        self.epoch, self.seq = self.epoch + 1, 0
        self.node = Node(self.root, bound=self.bound, disk=16 << 20)
        self.store, self.wire = "", []

    @rule(kind=st.sampled_from(["packets", "flows"]), size=st.integers(1, 3000))
    def seal(self, kind: str, size: int) -> None:
        self.seq += 1
        self.node.put(self.seq, kind, size, self.epoch)

    @rule(ending=st.booleans())
    def spool(self, ending: bool) -> None:
        self.node.step(ending)
        self.safe |= {(self.epoch, seq) for seq in range(1, self.seq + 1)}

    @rule(store=st.sampled_from(["s1", "s2"]))
    def connect(self, store: str) -> None:
        self.node.outbox.disconnected()
        self.store, self.wire = store, []
        held: dict[int, Ranges] = {}
        for epoch, seq in self.stores[store]:
            held.setdefault(epoch, Ranges()).add(seq)
        self.node.outbox.welcome(store, held, (4, 9000))

    @precondition(lambda self: self.store)
    @rule()
    def send(self) -> None:
        self.wire += self.node.send()

    @precondition(lambda self: self.wire)
    @rule(count=st.integers(1, 4))
    def arrive(self, count: int) -> None:
        for message in self.wire[:count]:
            what = message.reason if isinstance(message, Tombstone) else "batch"
            self.stores[self.store].setdefault((message.epoch, message.seq), what)
        self.wire = self.wire[count:]

    @rule(store=st.sampled_from(["s1", "s2"]), seals=st.integers(0, 5), count=st.integers(0, 6), ack=st.booleans())
    def outage(self, store: str, seals: int, count: int, ack: bool) -> None:
        """Batches are sealed and spooled without a hub; then one comes, takes some, and may acknowledge them."""
        for _ in range(seals):
            self.seal("packets", 1500)
        self.spool(False)
        self.connect(store)
        self.spool(False)
        self.send()
        self.arrive(count)
        if ack:
            self.acknowledge()
            self.spool(False)

    @precondition(lambda self: self.store)
    @rule()
    def acknowledge(self) -> None:
        for epoch in range(1, self.epoch + 1):
            held = Ranges((seq, seq) for e, seq in self.stores[self.store] if e == epoch)
            self.node.outbox.ack(epoch, held, (4, 9000))

    @rule()
    def crash(self) -> None:
        self.node.die()
        self.start()

    @invariant()
    def at_most_once(self) -> None:
        once = [key for store in self.stores.values() for key, what in store.items() if what == "batch"]
        assert len(once) == len(set(once))

    def teardown(self) -> None:
        try:
            if hasattr(self, "node"):
                self.drain()
        finally:
            if hasattr(self, "root"):
                self.node.die()
                shutil.rmtree(self.root)

    def drain(self) -> None:
        """After a last crash all that was safe is stored, or said to be lost; then nothing is on disk any more."""
        self.crash()
        for store in ("s1", "s2") * 30:
            self.connect(store)
            for _ in range(4):
                self.node.step()
                self.send()
                self.arrive(100)
                self.acknowledge()
            if not self.node.outbox.batches:
                break
        self.node.step()
        assert self.node.outbox.batches == 0
        assert self.node.folder.numbers() == []
        assert self.safe <= set(self.stores["s1"]) | set(self.stores["s2"])
        self.at_most_once()


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=250, stateful_step_count=30, deadline=None)
