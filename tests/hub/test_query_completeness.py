"""Completeness: what an answer says of agents, gaps, losses and flow-only packets, from a real store."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from query_rows import Row, entry
from store_rows import NOW, tombstone
from store_rows import store as store

from hub.query.completeness import MAX_GAPS, Window, completeness
from hub.query.window import format_ns
from hub.store.books import Entry
from hub.store.store import Store

MINUTE = 60 * 10**9
LAST_15 = Window(NOW - 15 * MINUTE)
ALL = Window()


def rows(at: int, count: int = 2) -> list[Row]:
    return [{"frame_number": n, "time": at, "start": at, "end": at, "packets": 3, "flow_only": 2} for n in range(count)]


def batch(seq: int, at: int = NOW, table: str = "packets", **more: Any) -> Entry:
    return entry(table, rows(at), seq, **more)


def lost(seq: int, at: int = NOW, **values: Any) -> Entry:
    return tombstone(seq, first=at, last=at, **values)


def report(seq: int, **ledger: Any) -> Entry:
    return tombstone(seq, packets=0, kind="report", reason="", ledger=ledger)


def say(store: Store, window: Window = LAST_15, table: str = "packets", **known: Any) -> dict[str, Any]:
    with store.reader() as reader:
        ask = partial(reader.rows, timeout=20)
        return completeness(ask, table, window, known.get("agents", []), known.get("unreported", []))


def agent(name: str = "web-1", verdict: str = "healthy", seen: int = NOW, **more: Any) -> dict[str, Any]:
    given = {"agent": name, "verdict": verdict, "last_seen": format_ns(seen), "state": "streaming", "source": "live"}
    return given | more


def test_nothing_stored_is_complete(store: Store) -> None:
    told = say(store)
    assert told == {
        "since": LAST_15.since, "until": None, "agents": [], "missing": [], "gaps": [], "lost": {}, "flow_only": 0,
        "clocks": [], "expired": 0, "rounded": None, "complete": True,
    }  # fmt: skip


def test_clocks_that_are_off_are_named_and_leave_the_answer_complete(store: Store) -> None:
    agents = [agent("late", clock_offset=3600.5), agent("fine", clock_offset=-1.9), agent("early", clock_offset=-2.1)]
    told = say(store, agents=[*agents, agent("silent"), agent("odd", clock_offset="x")])
    assert told["clocks"] == [{"agent": "late", "offset": 3600.5}, {"agent": "early", "offset": -2.1}]
    assert told["complete"]


def test_agents_of_the_window(store: Store) -> None:
    store.commit([batch(1), batch(1, NOW - 60 * MINUTE, agent="old")], NOW)
    assert say(store)["agents"] == ["web-1"]
    assert say(store, ALL)["agents"] == ["old", "web-1"]
    assert say(store, agents=[agent("idle")])["agents"] == ["idle", "web-1"]


def test_lost_batches_of_the_window_count_by_reason(store: Store) -> None:
    store.commit([batch(1), lost(2, packets=7), lost(3, packets=5, reason="in_doubt"), lost(4, packets=1)], NOW)
    store.commit([lost(5, NOW - 60 * MINUTE, packets=100)], NOW)
    told = say(store)
    assert (told["lost"], told["complete"]) == ({"in_doubt": 5, "shed": 8}, False)
    assert say(store, ALL)["lost"]["shed"] == 108
    assert say(store, Window(None, NOW))["lost"] == {"shed": 100}


def test_lost_flows_count_against_flows_and_flow_only_packets_against_packets(store: Store) -> None:
    store.commit([lost(1, kind="flows", packets=9, flow_only=4)], NOW)
    assert say(store)["lost"] == {"shed": 4}
    assert say(store, table="flows")["lost"] == {"shed": 9}


def test_a_lost_batch_of_calls_counts_as_one(store: Store) -> None:
    store.commit([batch(1), lost(2, packets=0, kind="calls")], NOW)
    assert say(store, table="calls")["lost"] == {"shed": 1}
    assert say(store)["lost"] == {}


def test_flow_only_packets_make_packets_incomplete_and_flows_not(store: Store) -> None:
    store.commit([batch(1, table="flows"), batch(2, NOW - 60 * MINUTE, "flows")], NOW)
    told = say(store)
    assert (told["flow_only"], told["complete"]) == (4, False)
    assert say(store, table="flows")["complete"] is True


def test_gaps_are_named_where_their_time_touches_the_window(store: Store) -> None:
    hour = 60 * MINUTE
    store.commit([batch(2, NOW - 3 * hour), batch(5, NOW - 2 * hour), batch(6, NOW), batch(9, NOW)], NOW)
    epoch = "0000000000000007"
    assert [(g["first"], g["last"]) for g in say(store, ALL)["gaps"]] == [(1, 1), (3, 4), (7, 8)]
    assert say(store)["gaps"] == [{"agent": "web-1", "epoch": epoch, "first": 7, "last": 8}]
    assert [g["first"] for g in say(store, Window(None, NOW - 2 * hour))["gaps"]] == [1, 3]
    assert say(store)["complete"] is False
    store.commit([lost(8), batch(7)], NOW)
    assert say(store)["gaps"] == []


def test_a_gap_beside_a_report_is_named_whatever_the_window(store: Store) -> None:
    store.commit([batch(1, NOW - 60 * MINUTE), report(3)], NOW)
    assert [g["first"] for g in say(store)["gaps"]] == [2]


def test_many_gaps_are_cut(store: Store) -> None:
    store.commit([batch(2 * n) for n in range(1, MAX_GAPS + 50)], NOW)
    assert len(say(store)["gaps"]) == MAX_GAPS + 1


def test_losses_that_only_the_agent_knows_are_the_growth_of_its_books(store: Store) -> None:
    before = {"lost": {"capture_error": 3}, "kernel_dropped": 10}
    after = {"lost": {"capture_error": 4, "encode_error": 2}, "kernel_dropped": 25}
    store.commit([batch(1, NOW - 60 * MINUTE, ledger=before), batch(2, ledger=after)], NOW)
    assert say(store)["lost"] == {"capture_error": 1, "encode_error": 2, "kernel_dropped": 15}
    assert say(store, ALL)["lost"] == {"capture_error": 4, "encode_error": 2, "kernel_dropped": 25}
    assert say(store, Window(None, NOW))["lost"] == {"capture_error": 3, "kernel_dropped": 10}


def test_a_report_without_packets_tells_losses_too(store: Store) -> None:
    store.commit([batch(1, ledger={"kernel_dropped": 1}), report(2, kernel_dropped=6)], NOW)
    assert say(store)["lost"] == {"kernel_dropped": 6}


@pytest.mark.parametrize("verdict", ["stalled", "gone", "lagging"])
def test_an_agent_that_fell_silent_is_missing_from_then_on(store: Store, verdict: str) -> None:
    known = [agent("web-2", verdict, NOW - MINUTE), agent("web-3")]
    told = say(store, agents=known)
    assert [entry["agent"] for entry in told["missing"]] == ["web-2"]
    assert told["missing"][0]["reason"].startswith(verdict)
    assert (told["agents"], told["complete"]) == (["web-3"], False)
    assert say(store, Window(None, NOW - MINUTE), agents=known)["missing"] == []


@pytest.mark.parametrize("verdict", ["healthy", "quiet", "degraded", "left"])
def test_other_agents_are_not(store: Store, verdict: str) -> None:
    assert say(store, agents=[agent("web-2", verdict)])["missing"] == []


def test_a_run_that_ended_without_a_word(store: Store) -> None:
    book = {"agent": "web-1", "epoch": "07", "unreported_since": format_ns(NOW - MINUTE), "source": "live"}
    assert [entry["agent"] for entry in say(store, unreported=[book])["missing"]] == ["web-1"]
    assert say(store, Window(NOW), unreported=[book])["missing"] == []
    assert say(store, Window(None, NOW - MINUTE), unreported=[book])["missing"] == []


def test_a_replay_counts_where_its_packets_are(store: Store) -> None:
    """Its packets are old however new the replay is."""
    store.commit([batch(1, NOW - 60 * MINUTE, agent="n/replay-7")], NOW)
    known = [agent("n/replay-7", "gone", source="replay")]
    assert say(store, agents=known)["missing"] == []
    assert [entry["agent"] for entry in say(store, ALL, agents=known)["missing"]] == ["n/replay-7"]


def test_an_agent_that_was_never_seen_is_no_reason_to_fail(store: Store) -> None:
    store.commit([replace(batch(1), node="n")], NOW)
    assert say(store, agents=[agent(last_seen=None)])["complete"] is True
