"""The outbox between threads: room, waiting, shedding, the level it calls for."""

from __future__ import annotations

import threading

from agent.uplink.outbox import Outbox
from protocol.messages import Batch
from protocol.ranges import Ranges

WIDE = (64, 1 << 20)


def batch(seq: int, kind: str = "packets", size: int = 1000) -> Batch:
    return Batch("a", 7, seq, kind, 1, 1, 0, 0, 1, size, 0, b"x" * size)


def test_a_file_waits_for_room_and_goes_on_when_there_is() -> None:
    outbox = Outbox(5000)
    outbox.put(batch(1), wait=True)
    outbox.put(batch(2), wait=True)
    done = threading.Event()

    def put() -> None:
        outbox.put(batch(3), wait=True)
        done.set()

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    assert not done.wait(0.3)
    outbox.welcome("s", {7: Ranges([(1, 1)])}, WIDE)
    assert done.wait(5)
    assert outbox.batches == 2


def test_whoever_waits_is_let_go_when_the_outbox_closes() -> None:
    outbox = Outbox(1500)
    outbox.put(batch(1), wait=True)
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(outbox.put(batch(2), wait=True)), daemon=True)
    thread.start()
    outbox.close()
    thread.join(5)
    assert taken == [False]


def test_a_batch_larger_than_the_bound_still_gets_through() -> None:
    outbox = Outbox(100)
    assert outbox.put(batch(1), wait=True)


def test_live_never_waits_and_stays_within_its_bound() -> None:
    outbox = Outbox(150_000)
    for seq in range(1, 101):
        outbox.put(batch(seq, "packets" if seq % 2 else "flows"), wait=False)
        assert outbox.bytes <= 150_000
    assert outbox.batches == 100  # tombstones stand for what was shed
    assert outbox.shed_batches > 0


def test_the_level_has_hysteresis() -> None:
    outbox = Outbox(10_000)
    assert outbox.level("packets") == "packets"
    for seq in range(1, 9):
        outbox.put(batch(seq), wait=False)
    assert outbox.level("packets") == "flows"
    outbox.welcome("s", {7: Ranges([(1, 4)])}, WIDE)
    assert outbox.level("flows") == "flows"
    assert outbox.level("packets") == "packets"
    outbox.ack(7, Ranges([(1, 4)]), WIDE)
    outbox.welcome("s", {7: Ranges([(1, 8)])}, WIDE)
    assert outbox.level("flows") == "packets"
