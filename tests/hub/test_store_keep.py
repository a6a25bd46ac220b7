"""What a store keeps: rows for days, their sums for longer; what a crash leaves of that."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from query_rows import entry
from rollup_rows import DAY, HOUR, MINUTE, NOW, answer, asked, fill, flow
from store_rows import flows, packets, tombstone

from hub.ingest.agents import Register
from hub.query.answer import build
from hub.query.select import Question
from hub.store import rollups
from hub.store.errors import StoreError
from hub.store.retention import Keep
from hub.store.store import Store


def test_times_at_the_ends_of_the_type_are_summed_up_too(tmp_path: Path) -> None:
    store = Store(f"chdb://{tmp_path}/store")
    store.open(NOW)
    try:
        times = (-(1 << 63), -(1 << 63) + 5 * HOUR, -1, 0, (1 << 63) - 1)
        rows = [flow(random.Random(7), 0) | {"start": time, "end": time} for time in times]
        store.commit([entry("flows", rows, 1)], NOW)
        assert store.roll(NOW, everything=True) == 1
        for since, until in ((None, None), (-HOUR, HOUR), (None, -HOUR), (3 * HOUR, None)):
            question = Question("flows", since=since, until=until, by=("nodetap.agent",))
            found, query = asked(store, question)
            assert query.tables
            assert found == answer(store, build(question))
    finally:
        store.close()


# -- retention -----------------------------------------------------------------------------------------------------


def test_rows_that_expired_are_answered_from_sums(tmp_path: Path) -> None:
    store = Store(f"chdb://{tmp_path}/store", Keep(days=1))
    store.open(NOW)
    try:
        after = fill(store, 35)
        everything = Question("flows", by=("ip.dst", "nodetap.agent"), top=0)
        before = answer(store, build(everything))
        gone = store.retain(after + 3 * DAY)
        assert [line.split(":")[0].split()[0] for line in gone] == ["calls", "flows"]
        found, query = asked(store, everything)
        assert (found, query.tables) == (before, ("flows", "flows_day"))
        assert store.rolled("flows") == replace(store.rolled("flows"), raw=36, upto=35, exact=36, minutes=1, hours=1)
        hours = replace(everything, since=NOW + 1, until=NOW + 2 * HOUR - 1)
        found, query = asked(store, hours)
        assert (query.rounded, query.tables) == ("minute", ("flows", "flows_minute", "flows_hour"))
        whole = asked(store, everything, since=NOW, until=NOW + 2 * HOUR)
        assert (found, whole[1].rounded) == (whole[0], "")
        assert asked(store, everything, since=NOW + MINUTE, until=NOW + 2 * MINUTE)[1].tables
        store.retain(after + 40 * DAY)
        assert asked(store, everything)[0] == before
        assert asked(store, hours)[1].rounded == "hour"
        assert store.rolled("flows").gone(sums=True) == ((0, 1), (36, 36))
        store.retain(after + 500 * DAY)
        assert asked(store, everything)[0] == []
        assert store.rolled("flows").gone(sums=False) == ((0, 36),)
        assert sum(figures["rows"] for name, figures in store.statistics().items() if name.startswith("flows")) == 0
    finally:
        store.close()


@pytest.mark.parametrize("keep", [Keep(days=2), Keep(most=1)], ids=["days", "bytes"])
def test_the_ledger_says_which_rows_expired(tmp_path: Path, keep: Keep) -> None:
    store = Store(f"chdb://{tmp_path}/store", keep)
    store.open(NOW)
    try:
        store._writer.command("SYSTEM STOP MERGES")
        for day in range(5):
            batches = [packets(day + 1, 10 + day), packets(day + 1, 5, agent="web-2"), flows(100 + day)]
            store.commit(batches, NOW + day * DAY)
        assert store.dropped() == {}
        for moment in (NOW + 4 * DAY, NOW + 7 * DAY):
            store.retain(moment)
            register = Register(store.epochs())
            register.dropped = store.dropped()
            with store.reader() as reader:
                sql = "SELECT agent, count() FROM packets GROUP BY agent"
                there = dict(reader.rows(sql, timeout=20))
                lines = dict(
                    reader.rows("SELECT agent, sumIf(rows, kind = 'packets') FROM batches GROUP BY agent", timeout=20)
                )
            books = register.ledger()["agents"]
            assert {b["agent"]: b["rows_present"] for b in books} == {name: there.get(name, 0) for name in lines}
            assert {b["agent"]: b["rows_present"] + b["rows_expired"] for b in books} == lines
            assert all(b["rows_expired"] > 0 and b["row"] == lines[b["agent"]] for b in books)
    finally:
        store.close()


def test_of_old_runs_only_sums_are_in_memory_and_what_they_sent_is_known(tmp_path: Path) -> None:
    store = Store(f"chdb://{tmp_path}/store", Keep(days=2))
    store.open(NOW)
    try:
        store.commit([packets(1), packets(2), tombstone(3, 0, kind="report", reason="", final=1)], NOW)
        register = Register(store.epochs())
        books = register.ledger()["agents"][0]
        after = NOW + 5 * DAY
        store.retain(after)
        store.commit([packets(1, epoch=8)], after)
        assert [run.epoch for run in store.epochs()] == [8]
        register.fold(store.old(after))
        past = register.ledger()["past"]
        assert past == store.past().to_map() == {name: books.get(name, 1) for name in past}
        assert (past["runs"], past["row"], past["complete"]) == (1, 20, True)

        register = Register(store.epochs(), past=store.past())
        assert register.folded("web-1", [7, 8, 9]) == [7]
        register.recall(store.recall("web-1", [7]))
        assert register.positions("web-1", [7, 8]) == {7: [3, []], 8: [1, []]}
        assert "past" not in register.ledger()
        store.commit([packets(2), packets(4)], after)
        assert len(store.epochs()) == 2
        with store.reader() as reader:
            assert reader.rows("SELECT seq, count() FROM packets WHERE epoch = 7 GROUP BY seq", timeout=20) == [(4, 10)]
        store.close()
        store.open(NOW + 20 * DAY)
        assert store.epochs() == []
        assert (store.past().to_map()["runs"], store.past().to_map()["row"]) == (2, 40)
    finally:
        store.close()


def test_what_is_too_much_is_summed_up_before_it_goes(tmp_path: Path) -> None:
    store = Store(f"chdb://{tmp_path}/store", Keep(most=1))
    store.open(NOW)
    try:
        store._writer.command("SYSTEM STOP MERGES")
        after = fill(store, 10)
        question = Question("calls", by=("call.operation",))
        before = answer(store, build(question))
        store.retain(after)
        kept = store.statistics()
        assert (kept["flows"]["parts"], kept["calls"]["parts"]) == (1, 1)
        assert asked(store, question)[0] == before
        assert store.rolled("flows").raw == 10
    finally:
        store.close()


# -- crashes -------------------------------------------------------------------------------------------------------


def test_a_store_tells_how_long_an_hour_waits_for_its_sums(tmp_path: Path) -> None:
    with closing(Store(f"chdb://{tmp_path}/store")) as store:
        store.open(NOW)
        after = fill(store, 12)
        client = store._kept._client
        client.command("DROP TABLE flows_minute")
        with pytest.raises(StoreError, match="cannot roll up"):
            store.roll(after)
        first_over = NOW // HOUR * HOUR + HOUR
        assert (store.behind(after), store.behind(after + HOUR)) == (after - first_over, after + HOUR - first_over)
        for statement in rollups.create():
            client.command(statement)
        assert store.roll(after) > 1
        assert store.behind(after) == 0


def test_a_day_whose_sums_are_not_all_there_is_not_joined_and_others_are(tmp_path: Path) -> None:
    with closing(Store(f"chdb://{tmp_path}/store")) as store:
        store.open(NOW)
        assert store.roll(fill(store, 12)) == 2
        store._kept._client.command("TRUNCATE TABLE flows_hour")
        fill(store, 12, day=1)
        with pytest.raises(StoreError, match="360 rows of flows, and 120 are found"):
            store.roll(NOW + 2 * DAY)
        assert [day.day - NOW // DAY for day in store.rolled("flows").days] == [1]
        assert [day.day - NOW // DAY for day in store.rolled("calls").days] == [0, 1]
        written = store.statistics()["flows_day"]["rows"]
        with pytest.raises(StoreError, match="360 rows of flows, and 120 are found"):
            store.roll(NOW + 2 * DAY)
        assert store.statistics()["flows_day"]["rows"] == written, "what cannot be joined is not written each time"


LIFE = """
import sys, time
from hub.store.store import Store
store = Store(sys.argv[1])
now = int(sys.argv[2])
store.open(now)
print("open", flush=True)
store.roll(now, everything=True)
print("done", flush=True)
time.sleep(60)
"""


def test_a_hub_killed_while_it_rolls_up_leaves_nothing_that_counts(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path}/store"
    store = Store(url)
    store.open(NOW)
    after = fill(store, 24)
    questions = [Question("flows", by=("ip.dst",), top=0), Question("calls", by=("call.operation",), top=0)]
    before = [answer(store, build(question)) for question in questions]
    store.close()
    for wait in (0.002, 0.02, 0.05, 0.1):
        with subprocess.Popen(
            [sys.executable, "-c", LIFE, url, str(after)], stdout=subprocess.PIPE, text=True, env={**os.environ}
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            try:
                child.wait(wait)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
    store.open(after)
    try:
        assert [asked(store, question)[0] for question in questions] == before
        store.roll(after, everything=True)
        assert store.rolled("flows").upto == 24
        found = [asked(store, question) for question in questions]
        assert [rows for rows, _ in found] == before
        assert all(query.tables for _, query in found)
    finally:
        store.close()
