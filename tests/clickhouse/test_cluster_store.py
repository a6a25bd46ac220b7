"""The store on servers, over the stand-in: once each, whichever hub sends it and whatever is said of the insert."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from time import time_ns
from typing import Any

import pytest
from procs import until
from query_rows import entry
from rollup_rows import flow
from standin import Server
from store_rows import alternating, flows, packets, tombstone

from hub.query.answer import build
from hub.query.output import SETTINGS
from hub.query.select import Query, Question
from hub.store.books import Entry, Line
from hub.store.cluster import ClusterStore
from hub.store.cluster_keeper import ClusterKeeper
from hub.store.errors import BadBatch, QueryError, QueryTimeout, StoreError
from hub.store.opening import store_of
from hub.store.periods import Rolled
from hub.store.server import ADVICE

PLACES = "SELECT agent, seq, count(), uniqExact(frame_number) FROM packets GROUP BY ALL ORDER BY ALL"
LINES = "SELECT agent, seq, rows, reason FROM batches ORDER BY ALL"


class Hubs:
    """Stores over one database, as several hubs have them."""

    def __init__(self, server: Server, database: str) -> None:
        self.url = server.url(database)
        self.all: list[ClusterStore] = []

    def one(self) -> ClusterStore:
        store = store_of(self.url)
        assert isinstance(store, ClusterStore)
        store.open(time_ns())
        self.all.append(store)
        return store


@pytest.fixture
def hubs(server: Server, request: pytest.FixtureRequest) -> Iterator[Hubs]:
    found = Hubs(server, "t" + "".join(c for c in request.node.name if c.isalnum() or c == "_"))
    yield found
    for name in ("error", "hold", "lost"):
        (server.control / name).unlink(missing_ok=True)
    for store in found.all:
        store.close()


def ask(store: ClusterStore, sql: str) -> list[tuple[Any, ...]]:
    with store.reader() as reader:
        return reader.rows(sql, timeout=30)


def commit(store: ClusterStore, *entries: Entry) -> None:
    store.commit(entries, time_ns())


def test_what_is_committed_is_there_and_the_books_say_so_to_every_hub(hubs: Hubs) -> None:
    one = hubs.one()
    commit(one, packets(1, 50), flows(2), tombstone(3), packets(1, 20, agent="d'b\\-1"))
    assert ask(one, PLACES) == [("d'b\\-1", 1, 20, 20), ("web-1", 1, 50, 50)]
    assert ask(one, LINES) == [
        ("d'b\\-1", 1, 20, ""),
        ("web-1", 1, 50, ""),
        ("web-1", 2, 4, ""),
        ("web-1", 3, 0, "shed"),
    ]
    two = hubs.one()
    assert two.id == one.id
    assert {(run.agent, tuple(run.seqs)) for run in two.epochs()} == {("web-1", ((1, 3),)), ("d'b\\-1", ((1, 1),))}


def test_a_batch_that_two_hubs_send_is_stored_once(hubs: Hubs) -> None:
    one, two = hubs.one(), hubs.one()
    commit(one, packets(1), alternating(2, 10))
    commit(two, packets(1), alternating(2, 10), packets(3))
    assert ask(two, PLACES) == [("web-1", 1, 10, 10), ("web-1", 3, 10, 10)]
    assert ask(two, "SELECT count() FROM flows") == [(10,)]
    assert [line[:2] for line in ask(two, LINES)] == [("web-1", 1), ("web-1", 2), ("web-1", 3)]
    stored = "SELECT seq, any(commit) FROM packets GROUP BY seq ORDER BY seq"
    assert ask(two, stored) == ask(two, "SELECT seq, commit FROM batches WHERE kind = 'packets' ORDER BY seq")


def test_an_insert_whose_answer_is_lost_is_repeated_and_stored_once(hubs: Hubs, server: Server) -> None:
    one = hubs.one()
    server.switch("lost", "web-1")
    with pytest.raises(StoreError, match="no server answers"):
        commit(one, packets(1), packets(2))
    assert one.committed() < min(one._places.values())  # nothing above is shown before it is settled
    server.release("lost")
    commit(one, packets(1), packets(2))
    assert ask(one, PLACES) == [("web-1", 1, 10, 10), ("web-1", 2, 10, 10)]


@pytest.mark.parametrize("code", sorted(ADVICE))
def test_every_error_of_the_servers_waits_and_says_what_to_do(hubs: Hubs, server: Server, code: int) -> None:
    if code not in (242, 252, 999):  # the others take the same way; these are what a cluster says most
        assert ADVICE[code]
        return
    one = hubs.one()
    server.switch("error", str(code))
    with pytest.raises(StoreError, match=ADVICE[code].split(":")[0]) as error:
        commit(one, packets(1))
    assert not isinstance(error.value, BadBatch)
    assert "secret" not in str(error.value)
    server.release("error")
    commit(one, packets(1))
    assert ask(one, PLACES) == [("web-1", 1, 10, 10)]


def test_a_batch_that_the_servers_refuse_is_named(hubs: Hubs, server: Server) -> None:
    one, bad = hubs.one(), packets(1)
    server.switch("error", "33")  # CANNOT_READ_ALL_DATA
    with pytest.raises(BadBatch) as error:
        commit(one, bad)
    assert error.value.entry is bad
    server.release("error")
    commit(one, packets(2))
    assert not one._places


def test_a_frozen_insert_that_lands_after_another_hub_took_over(hubs: Hubs, server: Server) -> None:
    """The first hub's insert is with the server, which is slow; the agent sends it again through the second."""
    one, two = hubs.one(), hubs.one()
    until("both know each other", lambda: one._peers.known and two._peers.known)
    server.switch("hold", f"nodetap-insert {one._numbers.hub} web-1")
    frozen = threading.Thread(target=commit, args=(one, packets(1), packets(2)))
    frozen.start()
    until("the insert is there", lambda: len(one._places) == 2)
    assert two.takeover("web-1", time_ns()) == []
    commit(two, packets(1))
    server.release("hold")
    frozen.join(60)
    assert ask(two, PLACES) == [("web-1", 1, 10, 10), ("web-1", 2, 10, 10)]
    assert [line[:3] for line in ask(two, LINES)] == [("web-1", 1, 10), ("web-1", 2, 10)]


def test_rows_win_over_the_tombstone_of_a_batch_in_doubt(hubs: Hubs, server: Server) -> None:
    one, two = hubs.one(), hubs.one()
    server.switch("hold", f"nodetap-insert {one._numbers.hub} web-1")
    frozen = threading.Thread(target=commit, args=(one, packets(1)))
    frozen.start()
    until("the insert is there", lambda: bool(one._places))
    commit(two, tombstone(1, reason="in_doubt"))
    server.release("hold")
    frozen.join(60)
    assert ask(two, LINES) == [("web-1", 1, 10, "")]
    assert ask(two, PLACES) == [("web-1", 1, 10, 10)]


def test_rows_that_a_dead_hub_left_without_lines_get_them(hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = hubs.one(), hubs.one()
    until("they know each other", lambda: two._peers.known)
    commit(one, packets(1))

    def dead(*args: object) -> None:
        raise OSError("killed by the test")

    monkeypatch.setattr(one, "_insert_lines", dead)
    monkeypatch.setattr(one, "_say", dead)
    with pytest.raises(StoreError):
        commit(one, packets(2), flows(3))
    until("the second clears up", lambda: len(ask(two, LINES)) == 3)
    assert ask(two, "SELECT seq, rows, recovered FROM batches ORDER BY seq") == [(1, 10, 0), (2, 10, 1), (3, 4, 1)]
    until(
        "it is shown", lambda: two.committed() >= max(line[0] for line in ask(two, "SELECT max(commit) FROM batches"))
    )
    assert {tuple(run.seqs) for run in two.epochs()} == {((1, 3),)}


def test_an_agent_that_moves_finds_what_it_left_elsewhere(hubs: Hubs) -> None:
    one, two = hubs.one(), hubs.one()
    until("both know each other", lambda: one._peers.known and two._peers.known)
    commit(one, packets(1), packets(2))
    two._beat_lock.acquire()  # no news may come by themselves
    try:
        assert sorted(line.seq for line in two.takeover("web-1", time_ns())) == [1, 2]
        assert two.takeover("web-1", time_ns()) == []
    finally:
        two._beat_lock.release()


def test_what_other_hubs_store_is_heard_and_may_be_shown(hubs: Hubs) -> None:
    one, two = hubs.one(), hubs.one()
    heard: list[int] = []
    two.listen(lambda news: heard.extend(line.seq for line in news.lines))
    commit(one, packets(1), tombstone(2))
    until("it is heard", lambda: sorted(heard) == [1, 2])
    newest = ask(one, "SELECT max(commit) FROM batches")[0][0]
    until("both show it", lambda: min(one.committed(), two.committed()) >= newest)


def test_a_hub_that_starts_while_another_stores_counts_each_line_once(hubs: Hubs) -> None:
    one, ended = hubs.one(), threading.Event()

    def store() -> None:
        seq = 0
        while not ended.is_set():
            seq += 1
            commit(one, packets(seq))

    storing = threading.Thread(target=store)
    storing.start()
    try:
        started = [hubs.one() for _ in range(8)]
    finally:
        ended.set()
        storing.join(60)
    ((rows,),) = ask(one, "SELECT count() FROM packets")
    for hub in [one, *started]:
        until("it heard of everything", lambda hub=hub: hub.committed() >= one._books.commit)
        (run,) = hub.epochs()
        assert (run.held.rows, run.seqs.count) == (rows, rows // 10)


def test_a_listener_is_told_what_was_heard_before_it_listened(hubs: Hubs) -> None:
    one, two = hubs.one(), hubs.one()
    commit(one, packets(1))
    until("it is in the books", lambda: two.epochs())
    told: list[Line] = []
    two.listen(lambda news: told.extend(news.lines))
    until("the listener is told", lambda: told)
    commit(one, packets(2))
    until("it goes on", lambda: len(told) > 1)
    assert [line.seq for line in told] == [1, 2]


def test_who_is_connected_to_a_hub_is_known_to_the_others(hubs: Hubs) -> None:
    one, two = hubs.one(), hubs.one()
    heard: list[dict[str, Any]] = []
    two.listen(lambda news: heard.append(news.elsewhere))
    one.tell([{"agent": "b", "since": "2"}, {"agent": "é'\\", "since": "1"}])
    until("it is heard", lambda: bool(heard) and sorted(heard[-1]) == ["b", "é'\\"])
    one.tell([{"agent": "b", "since": "3"}])
    until("one has left", lambda: heard[-1] == {"b": {"agent": "b", "since": "3", "hub": ""}})
    one.close()
    until("the hub has ended", lambda: heard[-1] == {})


def test_what_is_wanted_of_agents_is_kept_for_all_hubs(hubs: Hubs) -> None:
    one, two = hubs.one(), hubs.one()
    heard: list[Any] = []
    two.listen(lambda news: heard.append(news.wishes))
    assert one.wishes() == (0, {})
    one.wish("*", {"l7": "fast"}, 1)
    one.wish("b", {"filter": "port 'x'"}, 2)
    until("it is heard", lambda: bool(heard) and heard[-1] == (2, {"*": {"l7": "fast"}, "b": {"filter": "port 'x'"}}))
    two.wish("*", None, 3)
    assert one.wishes() == (3, {"b": {"filter": "port 'x'"}})


def test_a_server_that_remembers_a_token_without_its_rows_gets_them(hubs: Hubs, server: Server) -> None:
    """One server alone, killed between the two: the rows are read back, and what is missing goes under a new token."""
    hubs.url = server.url("alone", options="timeout=20")
    one = hubs.one()
    commit(one, packets(1))
    one._server.command("ALTER TABLE packets DELETE WHERE 1 SETTINGS mutations_sync = 2")
    one._server.command("TRUNCATE TABLE batch_lines")
    two = hubs.one()
    with pytest.raises(StoreError, match="cannot be read back"):
        commit(two, packets(1))
    commit(two, packets(1))
    assert ask(two, PLACES) == [("web-1", 1, 10, 10)]


@pytest.mark.parametrize(("options", "suffix"), [("", ""), ("cluster=main", "_local")], ids=["one server", "cluster"])
def test_a_store_of_an_older_hub_gets_its_columns_and_indexes(
    hubs: Hubs, server: Server, options: str, suffix: str
) -> None:
    hubs.url = server.url(f"older{suffix}", options=options)
    one = hubs.one()
    commit(one, packets(1))
    for name in dict.fromkeys((f"packets{suffix}", "packets")):
        one._server.command(f"ALTER TABLE {name} DROP COLUMN IF EXISTS tunnel_id")
    one._server.command(f"ALTER TABLE flows{suffix} DROP INDEX by_end")
    one._server.command(f"ALTER TABLE calls{suffix} DROP INDEX by_address")
    for _ in range(2):
        again = hubs.one()
        indexes = "SELECT table, name FROM system.data_skipping_indices WHERE database = currentDatabase() ORDER BY ALL"
        assert set(ask(again, indexes)) >= {(f"flows{suffix}", "by_end"), (f"calls{suffix}", "by_address")}
        assert ask(again, "SELECT sum(tunnel_id), count() FROM packets") == [(0, 10)]


def test_answers_are_streamed_and_bounded(hubs: Hubs) -> None:
    one = hubs.one()
    commit(one, packets(1, 5000))
    with one.reader() as reader:
        sql = "SELECT frame_number FROM packets WHERE frame_number > {n:UInt64} ORDER BY frame_number"
        text = b"".join(reader.stream(sql, {"n": 10}, fmt="JSONEachRow", timeout=20))
        assert text.count(b"\n") == 4990
        (empty,) = reader.stream("SELECT time FROM packets WHERE 0", {}, fmt="ArrowStream", timeout=20)
        assert empty.endswith(b"\xff\xff\xff\xff\0\0\0\0")
        with pytest.raises(QueryError, match="Unknown expression identifier"):
            list(reader.stream("SELECT nothing FROM packets", {}, fmt="TSV", timeout=20))
        with pytest.raises(QueryTimeout):
            reader.rows("SELECT sleepEachRow(1) FROM numbers(5) SETTINGS max_block_size = 1", timeout=0.5)


def test_old_days_are_dropped_and_lines_stay(hubs: Hubs) -> None:
    one = hubs.one()
    day = 86_400 * 10**9
    one.commit([packets(1)], time_ns() - 30 * day)
    commit(one, packets(2))
    (said,) = one.retain(time_ns())
    assert said.startswith("packets ")
    assert [row[1] for row in ask(one, PLACES)] == [2]
    assert [row[1] for row in ask(one, LINES)] == [1, 2]
    assert one.statistics()["packets"]["rows"] == 10


def groups(store: ClusterStore, rolled: Rolled, **wanted: Any) -> tuple[bytes, Query]:
    query = build(Question("flows", by=("ip.dst", "nodetap.agent"), top=0, rolled=rolled, **wanted))
    with store.reader() as reader:
        answer = reader.stream(query.sql, query.params, fmt=query.store_format, timeout=30, settings=SETTINGS)
        return b"".join(answer), query


def test_sums_say_what_rows_say_whoever_rolled_up_and_however_often(
    hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClusterKeeper, "period_ns", 10**9)
    monkeypatch.setattr(ClusterKeeper, "grace_ns", 0)
    one, two = hubs.one(), hubs.one()
    chance = random.Random(5)
    begun = time_ns()
    for seq in range(1, 5):
        rows = [flow(chance, begun - seq * 3600 * 10**9) for _ in range(20)]
        one.commit([entry("flows", rows, seq)], time_ns())
        two.commit([entry("flows", rows, seq, agent="web-2")], time_ns())
    newest = max(one._books.commit, two._books.commit)
    until("all is whole", lambda: min(one.committed(), two.committed()) >> 16 > (newest >> 16) + 1000)
    done = [store.roll(time_ns()) for store in (one, two, one)]
    assert (done.count(0), max(done) > 0) == (2, True)
    hours = begun // 10**9 * 10**9 - 30 * 3600 * 10**9
    for store in (one, two):
        store.roll(time_ns())
        assert store.rolled("flows").upto >= newest
        for window in ({}, {"since": hours, "until": begun}, {"since": begun - 3 * 3600 * 10**9 + 7}):
            plain, _ = groups(store, Rolled(), **window)
            found, query = groups(store, store.rolled("flows"), **window)
            assert found == plain
            assert "flows_hour" in query.tables
    for store in (one, two):  # both think that they are the one who does it
        store._keeper._looked = 0
        store._keeper._roller._periods["flows"].clear()
        store._keeper._roller.load = lambda: None  # type: ignore[method-assign]
        assert store._keeper.roll(store.committed(), time_ns(), rolls=True) == max(done)
    assert groups(two, two.rolled("flows"))[0] == groups(one, Rolled())[0]
    assert not two.rolled("flows").days
    two._keeper._roller.join(time_ns() // (24 * 3600 * 10**9) + 1, time_ns())  # as if the day were over
    two._keeper._look(time_ns())
    joined, query = groups(two, two.rolled("flows"))
    assert (joined, "flows_day" in query.tables) == (groups(one, Rolled())[0], True)
