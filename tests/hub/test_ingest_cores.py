"""The pure parts of ingest: whose turn it is, how much at once, who may connect, what may be held, who is known."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from hub.ingest.admission import BURST, LONGEST, RATE, Admission
from hub.ingest.agents import MAX_BLANK, MAX_REPLAYS, MAX_STRANGERS, Register
from hub.ingest.budget import BUDGET_BATCHES, BUDGET_BYTES, FLOOR_BYTES, Budget
from hub.ingest.lanes import QUANTUM, Lanes
from hub.ingest.pace import TARGET, Pace
from hub.ingest.session import ending_of, peer_of
from hub.store.books import Entry
from protocol.messages import Hello, Tombstone

STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3 * QUANTUM)) | st.integers(0, 4 * QUANTUM), max_size=60
)


@given(STEPS)
def test_lanes_lose_nothing_and_keep_each_lane_in_order(steps: list) -> None:
    lanes: Lanes[tuple[str, int]] = Lanes()
    put: list[tuple[str, int]] = []
    taken: list[tuple[str, int]] = []
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            put.append((step[0], number))
            lanes.put(step[0], put[-1], step[1])
        else:
            more = lanes.take(step, 5, 0.0, step + number % 3 * QUANTUM)
            assert len(more) <= 5
            assert more or len(put) == len(taken)
            taken += more
    while len(lanes):
        taken += lanes.take(0, 9, 0.0)
    assert lanes.cost == 0
    assert lanes.wait(0.0) is None
    assert sorted(taken) == sorted(put)
    for lane in "abc":
        assert [t for t in taken if t[0] == lane] == [p for p in put if p[0] == lane]


def test_a_small_thing_passes_what_another_has_piled_up() -> None:
    lanes: Lanes[str] = Lanes()
    for number in range(100):
        lanes.put("greedy", f"greedy{number}", QUANTUM)
    lanes.put("modest", "modest", 100)
    assert "modest" in lanes.take(2 * QUANTUM, 10, 0.0)


def test_two_that_want_everything_get_the_same_in_bytes_not_in_things() -> None:
    lanes: Lanes[str] = Lanes()
    for _ in range(400):
        lanes.put("large", "large", QUANTUM)
        for _ in range(4):
            lanes.put("small", "small", QUANTUM // 4)
    got = Counter(thing for _ in range(20) for thing in lanes.take(8 * QUANTUM, 100, 0.0))
    assert abs(got["large"] - got["small"] / 4) <= 1


def test_a_spaced_lane_waits_and_stops_nobody() -> None:
    lanes: Lanes[str] = Lanes({"slow": 5.0})
    for lane in ("slow", "slow", "quick", "quick"):
        lanes.put(lane, lane, 1)
    assert sorted(lanes.take(100, 10, 0.0)) == ["quick", "quick", "slow"]
    assert lanes.take(100, 10, 1.0) == []
    assert lanes.wait(1.0) == 4.0
    assert lanes.take(100, 10, 5.0) == ["slow"]


def test_each_lane_gets_something_where_the_limit_is_small() -> None:
    lanes: Lanes[str] = Lanes()
    for name in "abc":
        for number in range(3):
            lanes.put(name, f"{name}{number}", QUANTUM)
    assert sorted(lanes.take(1, 10, 0.0, 10 * QUANTUM)) == ["a0", "b0", "c0"]
    got = Counter("abc")
    for _ in range(3):
        more = lanes.take(1, 10, 0.0, 2 * QUANTUM)
        assert len(more) == 2
        got.update(thing[0] for thing in more)
        assert max(got.values()) - min(got.values()) <= 1
    assert len(lanes) == 0


def test_the_pace_follows_the_store_down_and_up() -> None:
    pace = Pace(1000, 10)
    pace.done(1000, 10 * TARGET)
    assert pace.limit == 100
    pace.done(1000, 1000 * TARGET)
    assert pace.limit == 10
    for _ in range(10):
        pace.done(pace.limit, TARGET / 3)
    assert pace.limit == 1000
    pace.done(0, 10 * TARGET)
    assert pace.limit == 1000


def test_a_price_per_commit_below_the_target_does_not_make_commits_small() -> None:
    pace = Pace(10**6, 1000)
    pace.done(1, 0.8 * TARGET)
    for _ in range(50):
        pace.done(pace.limit, 0.6 * TARGET + pace.limit * 1e-6 * TARGET)
    assert 390_000 < pace.limit < 410_000


def test_a_herd_is_admitted_at_the_rate_and_spread() -> None:
    admission = Admission(random.Random(1))
    waits = [admission.ask(100.0) for _ in range(1000)]
    assert waits.count(0) == BURST
    later = [wait for wait in waits if wait]
    assert min(later) >= 1
    assert LONGEST / 2 < max(later) <= LONGEST + 2
    assert max(Counter(later).values()) < 4 * RATE
    assert [admission.ask(101.0) for _ in range(200)].count(0) == BURST


@given(st.integers(1, 2000), st.data())
def test_the_windows_of_all_fit_the_budget(sessions: int, data: st.DataObject) -> None:
    budget = Budget()
    budget.sessions, budget.active = sessions, data.draw(st.integers(1, sessions))
    batches, size = budget.window()
    assert batches >= 4
    assert size >= FLOOR_BYTES
    idle = sessions - budget.active
    assert budget.active * size + idle * FLOOR_BYTES <= BUDGET_BYTES + FLOOR_BYTES
    assert budget.active * batches + idle * 4 <= BUDGET_BATCHES + 4


@dataclass(eq=False)
class Line:
    """A connection that has more to send than anyone wants."""

    budget: Budget
    buffered: int = 0
    queued: int = 0
    paused: bool = False

    @property
    def held(self) -> int:
        return self.buffered + self.queued

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def read(self, size: int) -> None:
        if not self.paused:
            self.buffered += size
            self.budget.read(self, size)

    def hand_on(self) -> None:
        """The session takes the whole message."""
        size, self.buffered = self.buffered, 0
        self.budget.read(self, -size)
        self.queued += size
        self.budget.queue(size)

    def written(self) -> None:
        self.budget.queue(-self.queued)
        self.queued = 0
        self.budget.relieve()


CHUNK = 256 << 10
MESSAGE = 16 << 20


def test_many_who_send_all_they_can_stay_within_the_budget_and_all_get_through() -> None:
    budget = Budget()
    lines = [Line(budget) for _ in range(250)]
    through: set[int] = set()
    bound = BUDGET_BYTES + len(lines) * (FLOOR_BYTES + CHUNK) + MESSAGE
    while len(through) < len(lines):
        for number, line in enumerate(lines):
            line.read(CHUNK)
            assert budget.bytes <= bound
            if line.buffered >= MESSAGE:
                line.hand_on()
                through.add(number)
        for line in lines:
            if line.queued:
                line.written()
        if all(line.paused for line in lines):
            budget.relieve()
            assert not all(line.paused for line in lines)
    assert max(line.buffered for line in lines) < MESSAGE


def test_who_holds_little_is_read_whatever_others_hold() -> None:
    budget = Budget()
    greedy, modest = Line(budget), Line(budget)
    greedy.queued = BUDGET_BYTES
    budget.queue(BUDGET_BYTES)
    greedy.read(CHUNK)
    modest.read(FLOOR_BYTES // 2)
    assert greedy.paused
    assert not modest.paused
    greedy.written()
    assert not greedy.paused


def test_who_goes_leaves_nothing_behind() -> None:
    budget = Budget()
    line = Line(budget)
    line.read(CHUNK)
    line.hand_on()
    line.read(CHUNK)
    budget.gone(line)
    assert budget.bytes == CHUNK
    line.written()
    assert budget.bytes == 0


class Connection:
    """What the register needs of one."""

    number, connection = 0, "c"


def report(epoch: int, captured: int, seq: int = 1) -> Entry:
    ledger = {"captured": captured, "rows": captured}
    return Entry(Tombstone("n1", epoch, seq, "report", ledger=ledger), None, "n1", "live", 1)


def test_an_agent_that_starts_again_and_again_and_brings_nothing_does_not_fill_the_register() -> None:
    register = Register()
    for epoch in range(1, 1001):
        live = Connection()
        register.join(Hello([1], "n1", "n1", epoch, [epoch]), live, epoch)
        if epoch % 100 == 0:
            register.receiver("n1", epoch).offer(1)
            register.committed([report(epoch, 5)], 1, epoch)
        register.leave("n1", live, epoch)
    epochs = [int(books["epoch"], 16) for books in register.ledger()["agents"]]
    assert set(range(100, 1001, 100)) | set(range(1001 - MAX_BLANK, 1001)) == set(epochs)
    assert register.positions("n1", [100, 101]) == {100: [1, []], 101: [0, []]}


def test_names_without_end_that_bring_nothing_are_forgotten_and_no_other() -> None:
    register, stays = Register(), Connection()
    register.join(Hello([1], "stays", "n", 1, [1]), stays, 1)
    for number in range(3 * MAX_STRANGERS):
        live, name = Connection(), f"n{number}"
        register.join(Hello([1], name, "n", 1, [1]), live, 1)
        if number == 7:
            register.committed([replace(report(1, 5), message=replace(report(1, 5).message, agent=name))], 1, 1)
        if number == 8:
            register.receiver(name, 1).offer(1)
        register.leave(name, live, 1)
    names = {agent["agent"] for agent in register.agents(1)}
    assert {"stays", "n7", "n8", f"n{3 * MAX_STRANGERS - 1}"} <= names
    assert len(names) <= MAX_STRANGERS + 3


@pytest.mark.parametrize(("heard", "silent"), [(True, 1.0), (False, 31.0)])
def test_who_is_given_up_for_silence_was_last_seen_before_it(heard: bool, silent: float) -> None:
    register, live = Register(), Connection()
    register.join(Hello([1], "n1", "n1", 1, [1]), live, 10**9)
    register.leave("n1", live, 31 * 10**9, heard=heard)
    assert register.silent_for("n1", 32 * 10**9) == silent


def test_of_replays_that_are_over_the_newest_are_listed_and_of_others_all() -> None:
    register, reads = Register(), Connection()
    register.join(Hello([1], "reads", "n", 1, [1], source="replay"), reads, 1)
    for number in range(2 * MAX_REPLAYS):
        for name, source in ((f"live{number}", "live"), (f"replay{number}", "replay")):
            live = Connection()
            register.join(Hello([1], name, "n", 1, [1], source=source), live, number)
            register.leave(name, live, number + 1)
    names = {agent["agent"] for agent in register.agents(2 * MAX_REPLAYS)}
    assert names == {"reads"} | {f"live{number}" for number in range(2 * MAX_REPLAYS)} | {
        f"replay{number}" for number in range(MAX_REPLAYS, 2 * MAX_REPLAYS)
    }


def test_a_run_with_batches_in_the_queue_stays_whatever_comes_after_it() -> None:
    register = Register()
    register.join(Hello([1], "n1", "n1", 1, [1]), Connection(), 1)
    register.receiver("n1", 1).offer(1)
    for epoch in range(2, 3 * MAX_BLANK):
        register.join(Hello([1], "n1", "n1", epoch, [epoch]), Connection(), 1)
    assert register.receiver("n1", 1).offer(1) == "queued"


def test_the_ledger_follows_what_is_stored_and_who_is_there() -> None:
    register = Register()
    live = Connection()
    register.join(Hello([1], "n1", "n1", 1, [1]), live, 1)
    register.committed([report(1, 5)], 1, 1)
    assert [(b["captured"], b["complete"]) for b in register.ledger()["agents"]] == [(5, True)]
    register.committed([report(1, 9, 3)], 2, 2)
    assert [(b["captured"], b["gaps"]) for b in register.ledger()["agents"]] == [(9, [[2, 2]])]
    register.committed([report(1, 7, 2)], 3, 3)
    assert [(b["captured"], b["complete"]) for b in register.ledger()["agents"]] == [(9, True)]
    register.leave("n1", live, 4)
    [books] = register.ledger()["agents"]
    assert not books["complete"]
    assert books["unreported_since"]


@pytest.mark.parametrize(
    ("rcvd", "sent", "rcvd_then_sent", "words"),
    [
        (None, None, None, "it broke: the agent was killed or gave it up, or the line was cut"),
        (None, Close(1008, "superseded"), None, "closed by the hub: superseded"),
        (Close(1008, "superseded"), Close(1008, "superseded"), False, "closed by the hub: superseded"),
        (Close(1000, ""), Close(1000, ""), True, "closed by the agent: 1000"),
    ],
)
def test_how_a_connection_ended_is_said_in_words(
    rcvd: Close | None, sent: Close | None, rcvd_then_sent: bool | None, words: str
) -> None:
    assert ending_of(ConnectionClosedError(rcvd, sent, rcvd_then_sent)) == words


def test_the_other_end_is_an_address_and_a_port() -> None:
    assert [peer_of(address) for address in (("127.0.0.1", 80), ("::1", 80, 0, 0), None)] == [
        "127.0.0.1:80",
        "::1:80",
        "",
    ]
