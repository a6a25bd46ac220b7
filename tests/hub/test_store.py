"""The store: what is committed is there once and whole, the books say so, and old days go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_rows import DAY, NOW, alternating, ask, flows, packet_columns, packets, tombstone
from store_rows import store as store

from hub.store import native, rollups
from hub.store.engine import MAX_INSERT_ROWS
from hub.store.retention import Keep
from hub.store.store import BadBatch, Store, StoreError
from protocol.columns import Dict
from protocol.ledger import settle
from protocol.schema import NAMES, TABLES
from protocol.schema import PARTS as NAME_PARTS

PARTS = "SELECT partition, rows FROM system.parts WHERE active AND table = {table:String} ORDER BY name"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"chdb://{tmp_path}/store"


def run_sql(store: Store, sql: str) -> None:
    """What no interface offers: damage, and tables of another version."""
    store._writer.command(sql)


def reopen(store: Store, now: int = NOW) -> Store:
    store.close()
    store.open(now)
    return store


# -- rows and books ------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_committed(store: Store) -> None:
    assert store.commit([packets(1, 500), packets(2, 500)], NOW) == 1
    rows = ask(
        store,
        "SELECT frame_number, time, len, toString(iface), IPv6NumToString(src), src_port, vlan_id, info "
        "FROM packets ORDER BY frame_number",
    )
    given = packet_columns(1000)
    assert [row[0] for row in rows] == list(range(1, 1001))
    assert [row[1] for row in rows] == given["time"].tolist()
    assert [row[3] for row in rows] == ["eth0" if n % 2 == 0 else "lo" for n in range(1, 1001)]
    assert [len(row[7]) for row in rows] == [n % 300 for n in range(1, 1001)]
    assert [len(row[6]) for row in rows] == [n % 3 for n in range(1, 1001)]
    assert rows[0][4] == "::ffff:158.55.121.177"
    origin = ask(
        store, "SELECT agent, epoch, seq, commit, toString(ingest_day), count() FROM packets GROUP BY ALL ORDER BY seq"
    )
    assert origin == [("web-1", 7, 1, 1, "2023-11-14", 500), ("web-1", 7, 2, 1, "2023-11-14", 500)]


def test_the_books_say_what_is_held(store: Store) -> None:
    store.commit([packets(1), flows(2), tombstone(3), tombstone(5, reason="quarantined")], NOW)
    store.commit([tombstone(6, 0, kind="report", reason="", final=1, ledger={"captured": 99})], NOW + 5)
    (run,) = store.epochs()
    assert (run.agent, run.epoch, run.node, run.source, run.session) == ("web-1", 7, "node-1", "live", 3)
    assert list(run.seqs) == [(1, 3), (5, 6)]
    assert (run.held.rows, run.held.flow_packets, run.held.flow_only) == (10, 60, 12)
    assert (run.held.lost, run.held.quarantined) == ({"shed": 10}, 10)
    assert (run.report.captured, run.report_seq, run.final) == (99, 6, True)
    assert (run.first_stored, run.last_stored, run.last_packet) == (NOW, NOW + 5, NOW + 10_000)


def test_the_books_are_the_same_after_a_restart(store: Store) -> None:
    store.commit([packets(1), packets(4), flows(2), tombstone(7), packets(1, agent="db-1", epoch=2**64 - 1)], NOW)
    store.commit([tombstone(9, 0, kind="report", reason="", final=1, ledger={"captured": 99})], NOW + 5)
    before, identity, commit = store.epochs(), store.id, store.committed()
    reopen(store)
    key = lambda run: (run.agent, run.epoch)  # noqa: E731
    assert sorted(store.epochs(), key=key) == sorted(before, key=key)
    assert (store.id, store.committed()) == (identity, commit)


def test_what_is_held_is_passed_over(store: Store) -> None:
    assert store.commit([packets(1), packets(1), packets(2)], NOW) == 1
    assert store.commit([packets(2), tombstone(1)], NOW) == 1
    assert reopen(store).commit([packets(1), packets(2), packets(3)], NOW) == 2
    assert ask(store, "SELECT seq, count() FROM packets GROUP BY seq ORDER BY seq") == [(1, 10), (2, 10), (3, 10)]
    assert ask(store, "SELECT seq, count(), max(reason) FROM batches GROUP BY seq ORDER BY seq") == [
        (1, 1, ""),
        (2, 1, ""),
        (3, 1, ""),
    ]


def test_the_runs_handed_out_are_copies(store: Store) -> None:
    store.commit([packets(1)], NOW)
    store.epochs()[0].seqs.add(2)
    assert store.commit([packets(2)], NOW) == 2


def test_a_ledger_that_says_nothing_does_not_replace_one_that_does(store: Store) -> None:
    store.commit([packets(1), tombstone(2)], NOW)
    assert store.epochs()[0].report.captured == 10
    assert reopen(store).epochs()[0].report.captured == 10


def test_a_replaced_batch_keeps_its_first_rows(store: Store) -> None:
    store.commit([packets(1)], NOW)
    other = packets(1, len=np.full(10, 9, dtype="<u4"))
    store.commit([replace(other, node="node-2")], NOW)
    assert ask(store, "SELECT countIf(len = 9), count() FROM packets") == [(0, 10)]


# -- inserts -------------------------------------------------------------------------------------------------------


def test_one_insert_is_one_part(store: Store) -> None:
    run_sql(store, "SYSTEM STOP MERGES")
    entries = [packets(seq, 131_072) for seq in range(1, 5)]
    assert sum(entry.rows for entry in entries) == MAX_INSERT_ROWS
    store.commit([*entries, flows(5, 1000)], NOW)
    assert ask(store, PARTS, table="packets") == [("2023-11-14", MAX_INSERT_ROWS)]
    assert ask(store, PARTS, table="flows") == [("2023-11-14", 1000)]
    assert ask(store, PARTS, table="batches") == [("2023-11-14", 5)]


def test_more_rows_than_one_insert_takes_make_several_commits(store: Store) -> None:
    run_sql(store, "SYSTEM STOP MERGES")
    assert store.commit([packets(seq, 131_072) for seq in range(1, 6)], NOW) == 2
    assert ask(store, PARTS, table="packets") == [("2023-11-14", MAX_INSERT_ROWS), ("2023-11-14", 131_072)]
    assert ask(store, "SELECT commit, groupArray(seq) FROM batches GROUP BY commit ORDER BY commit") == [
        (1, [1, 2, 3, 4]),
        (2, [5]),
    ]


def test_nothing_to_commit_is_no_commit(store: Store) -> None:
    assert store.commit([], NOW) == 0
    assert ask(store, PARTS, table="batches") == []


@pytest.mark.parametrize(
    "changes",
    [{"len": np.zeros(9, dtype="<u4")}, {"l7": Dict(np.full(10, 3, dtype="<u4"), ("dns",))}, {"src": None}],
    ids=["short", "code", "absent"],
)
def test_a_batch_whose_columns_do_not_fit_is_named(store: Store, changes: dict[str, Any]) -> None:
    bad = packets(2, **changes)
    with pytest.raises(BadBatch, match="batch 2 of web-1") as error:
        store.commit([packets(1), bad, packets(3)], NOW)
    assert error.value.entry is bad
    store.commit([packets(1), packets(3)], NOW)
    assert list(store.epochs()[0].seqs) == [(1, 1), (3, 3)]


def test_a_batch_that_the_engine_refuses_is_found_among_many(store: Store) -> None:
    run_sql(store, "ALTER TABLE packets ADD CONSTRAINT no_42 CHECK frame_number != 42")
    entries = [packets(seq) for seq in range(1, 9)]
    with pytest.raises(BadBatch) as error:
        store.commit(entries, NOW)
    assert error.value.entry is entries[4]  # frames 41 to 50
    store.commit([entry for entry in entries if entry is not error.value.entry], NOW)
    assert ask(store, "SELECT count(), uniqExact(frame_number), countIf(seq = 5) FROM packets") == [(70, 70, 0)]
    assert list(reopen(store).epochs()[0].seqs) == [(1, 4), (6, 8)]


# -- recovery ------------------------------------------------------------------------------------------------------


def test_lines_are_rebuilt_from_rows_that_have_none(store: Store) -> None:
    store.commit([alternating(1, 10), alternating(2, 10)], NOW)
    store.commit([alternating(3, 10), alternating(4, 10), packets(1, agent="db-1", epoch=9)], NOW)
    run_sql(store, "ALTER TABLE batches DELETE WHERE commit = 2 SETTINGS mutations_sync = 2")
    reopen(store, NOW + DAY)
    assert store.committed() == 2
    sql = (
        "SELECT seq, kind, rows, packets, flow_only, first, last, node, recovered "
        "FROM batches WHERE agent = 'web-1' ORDER BY seq"
    )
    assert ask(store, sql)[2:] == [
        (3, "packets", 10, 10, 0, NOW + 21_000, NOW + 30_000, "node-1", 1),
        (4, "flows", 10, 150, 30, NOW, NOW + 9500, "node-1", 1),
    ]
    runs = {run.agent: run for run in store.epochs()}
    assert list(runs["web-1"].seqs) == [(1, 4)]
    assert list(runs["db-1"].seqs) == [(1, 1)]
    report = runs["web-1"].report
    assert report.conserved
    assert (report.rows, report.flow_only, report.flow_packets, report.captured) == (20, 60, 300, 300)
    assert settle(report, runs["web-1"].held).balanced
    assert store.commit([alternating(3, 10), alternating(5, 10)], NOW) == 3
    assert ask(store, "SELECT count(), uniqExact(agent, epoch, frame_number) FROM packets") == [(40, 40)]


@pytest.mark.parametrize("table", ["packets", "flows", "batches"])
@pytest.mark.parametrize("stored", [False, True], ids=["before", "after"])
def test_an_insert_that_fails_leaves_no_doubt(
    store: Store, monkeypatch: pytest.MonkeyPatch, table: str, stored: bool
) -> None:
    """Whether or not the rows of the failed insert are there, the commit can be repeated and nothing is doubled."""
    insert = store._engine.insert
    failures = iter([True])

    def failing(client: Any, into: Any, parts: Any, rows: int) -> None:
        fail = into.name == table and next(failures, False)
        if stored or not fail:
            insert(client, into, parts, rows)
        if fail:
            raise OSError("failed by the test")

    monkeypatch.setattr(store._engine, "insert", failing)
    entries = [packets(1), flows(2), tombstone(3)]
    with pytest.raises(StoreError, match="failed by the test"):
        store.commit(entries, NOW)
    store.commit(entries, NOW)
    assert list(store.epochs()[0].seqs) == [(1, 3)]
    assert ask(store, "SELECT count(), uniqExact(seq), sum(recovered) FROM batches") == [(3, 3, 0)]
    assert ask(store, "SELECT count() FROM packets") == [(10,)]
    assert ask(store, "SELECT count() FROM flows") == [(4,)]


def test_all_lines_lost_are_rebuilt_under_their_own_commits(store: Store) -> None:
    for seq in range(1, 6):
        store.commit([packets(seq)], NOW)
    run_sql(store, "TRUNCATE TABLE batches")
    reopen(store)
    assert ask(store, "SELECT seq, commit FROM batches ORDER BY seq") == [(n, n) for n in range(1, 6)]
    assert store.epochs()[0].held.rows == 50
    report = store.epochs()[0].report
    assert (report.captured, report.rows, report.conserved) == (50, 50, True)


def test_a_block_that_cannot_be_made_stores_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = native.block

    def torn(columns: Any, parts: Any, rows: int) -> Iterator[native.Buffer]:
        yield from islice(whole(columns, parts, rows), 9)
        raise MemoryError

    monkeypatch.setattr(native, "block", torn)
    with pytest.raises(StoreError, match="out of memory"):
        store.commit([packets(1)], NOW)
    assert ask(store, "SELECT count() FROM packets") == [(0,)]
    monkeypatch.setattr(native, "block", whole)
    store.commit([packets(1)], NOW)
    assert store.committed() == 1


def pipes() -> int:
    """Ends of pipes that this process has open."""
    return sum(os.readlink(path).startswith("pipe:") for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


def test_a_block_that_the_engine_does_not_read_is_given_up(store: Store) -> None:
    """Not a byte of it, and more than a pipe holds: what makes it ends."""
    run_sql(store, "RENAME TABLE packets TO away")
    before = threading.active_count(), pipes()
    with pytest.raises(StoreError):
        store.commit([packets(1, 20_000)], NOW)
    assert (threading.active_count(), pipes()) == before
    run_sql(store, "RENAME TABLE away TO packets")
    store.commit([packets(1, 20_000)], NOW)
    assert ask(store, "SELECT count() FROM packets") == [(20_000,)]


def test_a_machine_without_threads_is_a_store_that_cannot_write_now(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = pipes()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(StoreError, match="can't start new thread"):
            store.commit([packets(1)], NOW)
    assert pipes() == before
    assert store.commit([packets(1)], NOW) == 1


def commit_until_it_fails(store: Store) -> int:
    for seq in range(1, 200):
        try:
            store.commit([packets(seq, 20_000), flows(1000 + seq, 10)], NOW)
        except StoreError:
            return seq
    raise AssertionError("the disk never was full")


@pytest.mark.root
def test_a_full_disk_stores_nothing_twice(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=True)
    store = Store(f"chdb://{folder}/store")
    try:
        store.open(NOW)
        run_sql(store, "SYSTEM STOP MERGES")
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(20 << 20))
        seq = commit_until_it_fails(store)
        ballast.unlink()
        store.commit([packets(seq, 20_000), flows(1000 + seq, 10)], NOW)
        held = reopen(store).epochs()[0]
        assert list(held.seqs) == [(1, seq), (1001, 1000 + seq)]
        assert ask(store, "SELECT count(), uniqExact(frame_number) FROM packets") == [(seq * 20_000, seq * 20_000)]
    finally:
        store.close()
        subprocess.run(["umount", folder], check=True)


# -- the directory -------------------------------------------------------------------------------------------------


def test_a_second_store_is_told_who_has_it(store: Store, url: str) -> None:
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}; stop it or choose another --store"):
        Store(url).open(NOW)


def test_another_process_is_told_who_has_it(store: Store, url: str) -> None:
    code = f"from hub.store.store import Store\nStore({url!r}).open({NOW})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert f"is in use by process {os.getpid()}" in result.stderr.splitlines()[-1]


def test_a_second_directory_in_one_process_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="another store open"):
        Store(f"chdb://{tmp_path}/other").open(NOW)


@pytest.mark.parametrize("wrong", ["https://u:secret@host/db", "chdb://relative", "/var/lib", "file:///x"])
def test_a_url_that_names_no_store_is_refused(wrong: str) -> None:
    with pytest.raises(StoreError, match="use chdb:///DIR") as error:
        Store(wrong)
    assert "secret" not in str(error.value)


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot use .*file"):
        Store(f"chdb://{tmp_path}/file").open(NOW)


def test_columns_that_are_missing_are_added(store: Store) -> None:
    store.commit([packets(1)], NOW)
    run_sql(store, "ALTER TABLE packets DROP COLUMN tunnel_id")
    run_sql(store, "ALTER TABLE packets DROP COLUMN dns_qry_name")
    run_sql(store, "ALTER TABLE packets DROP COLUMN l7_fields")
    run_sql(store, "ALTER TABLE batches DROP COLUMN recovered")
    reopen(store)
    store.commit([packets(2, tunnel_id=np.full(10, 5, dtype="<u4"))], NOW)
    assert ask(store, "SELECT seq, max(tunnel_id) FROM packets GROUP BY seq ORDER BY seq") == [(1, 0), (2, 5)]


def test_an_index_that_is_missing_is_added(store: Store) -> None:
    run_sql(store, "ALTER TABLE flows DROP INDEX by_address")
    run_sql(store, "ALTER TABLE calls DROP INDEX by_end")
    for _ in range(2):
        reopen(store)
        indexes = "SELECT table FROM system.data_skipping_indices WHERE name = '{}' ORDER BY table"
        assert ask(store, indexes.format("by_address")) == [("calls",), ("flows",), ("packets",)]
        assert ask(store, indexes.format("by_end")) == [("calls",), ("flows",)]


def test_a_store_without_names_gets_them(store: Store) -> None:
    store.commit([packets(1)], NOW)
    for column in (*NAME_PARTS, *NAMES):
        run_sql(store, f"ALTER TABLE packets DROP COLUMN {column.name}")
    reopen(store)
    names = Dict(np.arange(10, dtype="<u4") % 2, ("", "shop/web-1/web//n1/"))
    store.commit([packets(2, k8s_src=names)], NOW)
    sql = "SELECT seq, k8s_src_pod, k8s_dst_pod, count() FROM packets GROUP BY ALL ORDER BY ALL"
    assert ask(store, sql) == [(1, "", "", 10), (2, "", "", 5), (2, "web-1", "", 5)]


def test_a_newer_store_is_refused_by_its_columns(store: Store) -> None:
    run_sql(store, "ALTER TABLE packets ADD COLUMN from_the_future UInt32")
    with pytest.raises(StoreError, match="made by a newer nodetap"):
        reopen(store)


def test_a_newer_store_is_refused_by_its_version(store: Store, tmp_path: Path) -> None:
    store.close()
    path = tmp_path / "store" / "nodetap.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 999}))
    with pytest.raises(StoreError, match="made by a newer nodetap"):
        store.open(NOW)


def test_every_table_of_the_schema_is_there(store: Store) -> None:
    names = {row[0] for row in ask(store, "SELECT name FROM system.tables WHERE database = currentDatabase()")}
    assert names == {*TABLES, "batches", *rollups.NAMES, rollups.PERIODS.name}


# -- retention -----------------------------------------------------------------------------------------------------


def days(store: Store) -> list[str]:
    return [row[0] for row in ask(store, "SELECT DISTINCT toString(ingest_day) FROM packets ORDER BY 1")]


def test_days_beyond_retention_go_and_their_lines_stay(store: Store) -> None:
    for day in range(10):
        store.commit([packets(day + 1), flows(100 + day)], NOW + day * DAY)
    gone = store.retain(NOW + 9 * DAY)
    assert days(store) == [f"2023-11-{d}" for d in range(16, 24)]
    assert len(gone) == 4
    assert "packets 2023-11-14" in gone[0] or "flows 2023-11-14" in gone[0]
    assert ask(store, "SELECT count() FROM batches") == [(20,)]
    assert store.retain(NOW + 9 * DAY) == []
    reopen(store)
    assert store.epochs()[0].held.rows == 100
    assert store.commit([packets(1), packets(11)], NOW + 9 * DAY) == 11


def test_the_oldest_go_while_there_is_too_much(url: str) -> None:
    store = Store(url, Keep(most=200_000))
    store.open(NOW)
    try:
        run_sql(store, "SYSTEM STOP MERGES")
        for seq in range(1, 9):
            store.commit([packets(seq, 2000)], NOW + seq // 4 * DAY)
        before = sum(table["bytes"] for table in store.statistics().values())
        assert before > 200_000
        store.retain(NOW + 2 * DAY)
        after = sum(table["bytes"] for table in store.statistics().values())
        assert 200_000 - before / 8 < after <= 200_000
        left = [row[0] for row in ask(store, "SELECT DISTINCT seq FROM packets ORDER BY seq")]
        assert left == list(range(left[0], 9))
    finally:
        store.close()


def test_statistics_count_rows_and_bytes(store: Store) -> None:
    store.commit([packets(1), flows(2)], NOW)
    figures = store.statistics()
    assert {name: (f["rows"], f["parts"]) for name, f in figures.items()} == {
        "packets": (10, 1),
        "flows": (4, 1),
        "batches": (2, 1),
    }
    assert all(f["bytes"] > 0 for f in figures.values())


def test_parts_go_without_threads_of_their_own(store: Store) -> None:
    """Where a hundred go at once, the engine would start 128 threads and keep them, with three open files each."""
    run_sql(store, "SYSTEM STOP MERGES packets")
    for seq in range(1, 121):
        store.commit([packets(seq)], NOW)
    before = len(list(Path("/proc/self/task").iterdir()))
    store.retain(NOW + 9 * DAY)
    assert ask(store, "SELECT count() FROM system.parts WHERE table = 'packets'") == [(0,)]
    assert len(list(Path("/proc/self/task").iterdir())) < before + 32
