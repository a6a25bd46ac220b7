"""Parts that are not whole on disk: nothing in them is acknowledged, and the store goes on once there is space.

The engine says nothing when a part's files cannot be written to their end, so the tests cut them off where the engine
has just published them: what a full disk leaves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_rows import NOW, ask, flows, packets
from store_rows import store as store

from hub.store.store import Store, StoreError

TABLES = ["packets", "flows", "batches"]
CUT: dict[str, Callable[[Path], bool]] = {
    "every-file": lambda file: True,
    "marks": lambda file: file.suffix.startswith(".cmrk"),
    "data": lambda file: file.suffix == ".bin",
    "skip-index": lambda file: file.name == "skp_idx.packed",
    "checksums": lambda file: file.name == "checksums.txt",
    "columns": lambda file: file.name == "columns.txt",
    "substreams": lambda file: file.name == "columns_substreams.txt",
    "rows": lambda file: file.name == "count.txt",
}


def cut_newest(store: Store, table: str, chosen: Callable[[Path], bool], left: float) -> None:
    """Leave a share of the chosen files of the newest part of a table."""
    sql = f"SELECT path FROM system.parts WHERE active AND table = '{table}' ORDER BY max_block_number DESC LIMIT 1"
    (row,) = store._writer.query(sql).result_rows
    for file in Path(row[0]).iterdir():
        if chosen(file):
            os.truncate(file, int(file.stat().st_size * left))


def damage(
    store: Store, monkeypatch: pytest.MonkeyPatch, table: str, chosen: Callable[[Path], bool], left: float, times: int
) -> None:
    """The next `times` inserts into a table lose the ends of files, and report success."""
    insert, cuts = store._engine.insert, iter(range(times))

    def cutting(client: Any, into: Any, parts: Any, rows: int) -> None:
        insert(client, into, parts, rows)
        if into.name == table and next(cuts, None) is not None:
            cut_newest(store, table, chosen, left)

    monkeypatch.setattr(store._engine, "insert", cutting)


def batch(number: int) -> list[Any]:
    return [packets(number, 5_000), flows(1000 + number)]


def assert_whole(store: Store, last: int) -> None:
    assert [list(run.seqs) for run in store.epochs()] == [[(1, last), (1001, 1000 + last)]]
    assert ask(store, "SELECT count(), uniqExact(frame_number), sum(len) > 0 FROM packets") == [
        (last * 5_000, last * 5_000, 1)
    ]
    assert ask(store, "SELECT count(), uniqExact(seq) FROM flows") == [(4 * last, last)]
    assert ask(store, "SELECT count(), uniqExact(seq) FROM batches") == [(2 * last, 2 * last)]


@pytest.mark.parametrize("times", [1, 2], ids=["cut-once", "emptied-twice"])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("cut", CUT)
def test_a_part_that_is_not_whole_is_no_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch, cut: str, table: str, times: int
) -> None:
    store.commit(batch(1), NOW)
    damage(store, monkeypatch, table, CUT[cut], 0.5 if times == 1 else 0, times)
    failed = 0
    for _ in range(times + 1):
        try:
            store.commit(batch(2), NOW)
            break
        except StoreError as error:
            failed += f"of {table} is not whole on disk" in str(error)
    assert failed >= 1
    store.commit(batch(3), NOW)
    assert_whole(store, 3)
    assert ask(store, "SELECT count() FROM system.detached_parts") == [(0,)]
    store.close()
    store.open(NOW)
    assert_whole(store, 3)


@pytest.mark.parametrize("table", TABLES)
def test_a_hub_that_died_before_it_looked_holds_nothing_of_a_broken_part(
    store: Store, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    store.commit(batch(1), NOW)
    damage(store, monkeypatch, table, CUT["marks"], 0, 1)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    verify = store._parts.verify
    monkeypatch.setattr(type(store._parts), "verify", lambda _, client, name: die() if name == table else None)
    with pytest.raises(KeyboardInterrupt):
        store.commit(batch(2), NOW)
    monkeypatch.setattr(type(store._parts), "verify", lambda _, client, name: verify(client, name))
    store.close()
    store.open(NOW)
    store.commit(batch(2), NOW)
    assert_whole(store, 2)


def test_a_merge_that_is_not_whole_gives_way_to_what_it_was_made_from(store: Store) -> None:
    for number in range(1, 4):
        store.commit(batch(number), NOW)
    store._writer.command("OPTIMIZE TABLE packets FINAL")
    cut_newest(store, "packets", CUT["data"], 0)
    with pytest.raises(StoreError, match="of packets is not whole on disk"):
        store.commit(batch(4), NOW)
    store.commit(batch(5), NOW)
    store.commit(batch(4), NOW)
    held = ask(store, "SELECT seq, count() FROM packets GROUP BY seq ORDER BY seq")
    assert held == [(number, 5_000) for number in range(1, 6)]


def test_a_broken_part_that_was_merged_before_it_was_looked_at_takes_nothing_with_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 4):
        store.commit(batch(number), NOW)
    insert, inserts = store._engine.insert, iter([True])

    def merging(client: Any, into: Any, parts: Any, rows: int) -> None:
        insert(client, into, parts, rows)
        if into.name == "packets" and next(inserts, False):
            sql = "SELECT path FROM system.parts WHERE active AND table = 'packets' ORDER BY max_block_number DESC"
            newest = Path(client.query(sql).result_rows[0][0])
            client.command("OPTIMIZE TABLE packets FINAL")
            for file in newest.iterdir():
                os.truncate(file, 0)

    monkeypatch.setattr(store._engine, "insert", merging)
    with pytest.raises(StoreError, match="of packets is not whole on disk"):
        store.commit(batch(4), NOW)
    assert ask(store, "SELECT seq, count() FROM packets GROUP BY seq ORDER BY seq") == [(n, 5_000) for n in (1, 2, 3)]
    store.commit(batch(4), NOW)
    assert_whole(store, 4)
