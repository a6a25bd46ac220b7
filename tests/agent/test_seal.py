"""Sealing: sizes, numbers, books, and rows that cannot be packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.decode.walk import Sheet
from agent.seal import FULL_WINDOW, HALVINGS, LONGEST_AGE_NS, MAX_AGE_NS, Sealer, _join, age_of
from protocol.codec import decode, encode, unpack_body
from protocol.columns import Columns, Lists, Text, empty
from protocol.errors import RemoteError
from protocol.ledger import Report
from protocol.limits import MAX_MESSAGE, MAX_RAW
from protocol.messages import Batch
from protocol.schema import TABLES, Has


def table(kind: str, rows: int, first: int = 1) -> Columns:
    columns = {column.name: empty(column, rows) for column in TABLES[kind].columns}
    columns["layers"][:] = int(Has.TIME)
    times = np.arange(first, first + rows)
    columns[TABLES[kind].time][:] = times
    columns[TABLES[kind].until][:] = times
    if kind == "flows":
        columns["packets"][:], columns["packets_rev"][:], columns["flow_only"][:] = 2, 1, 2
    return columns


def sealer(max_rows: int = 10, **report: Any) -> tuple[Sealer, Report]:
    books = Report(**report)
    return Sealer("node", 7, books, max_rows=max_rows), books


def times(batch: Batch) -> list[int]:
    columns, dropped = unpack_body(batch)
    assert dropped == 0
    return columns[TABLES[batch.kind].time].tolist()


@given(st.lists(st.tuples(st.sampled_from(["packets", "flows"]), st.integers(0, 25), st.booleans()), max_size=12))
@settings(max_examples=100, deadline=None)
def test_rows_come_out_once_in_order_and_the_books_follow(steps: list[tuple[str, int, bool]]) -> None:
    seal, books = sealer()
    batches: list[Batch] = []
    added = {"packets": 0, "flows": 0}
    for kind, rows, everything in steps:
        new = added[kind]
        added[kind] += rows
        books.captured += rows if kind == "packets" else 2 * rows
        books.open += rows if kind == "packets" else 2 * rows
        books.flow_open += 3 * rows if kind == "flows" else 0
        sealed = seal.add(kind, table(kind, rows, new + 1))
        batches += sealed + (seal.seal() if everything else [])
        assert books.conserved
        assert all(batch.rows == 10 for batch in sealed)
    batches += seal.seal()
    assert seal.bytes == 0
    for kind in added:
        assert [t for b in batches if b.kind == kind for t in times(b)] == list(range(1, added[kind] + 1))
    assert [b.seq for b in batches] == list(range(1, len(batches) + 1))
    assert (books.rows, books.flow_packets, books.flow_only) == (
        added["packets"],
        3 * added["flows"],
        2 * added["flows"],
    )
    assert (books.open, books.flow_open) == (0, 0)
    for batch in batches:
        assert Report.from_map(batch.ledger).conserved
        assert decode(encode(batch), "agent") == (batch, 0)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6).flatmap(
        lambda cuts: st.tuples(st.just(cuts), st.permutations(range(len(cuts))))
    ),
    st.integers(-1, 5),
    st.booleans(),
)
def test_parts_of_a_sheet_are_put_together_as_all_others(
    cuts: tuple[list[int], list[int]], changed: int, gap: bool
) -> None:
    sizes, order = cuts
    seal, books = sealer(1000)
    sheet = Sheet(sum(sizes) + gap)
    parts: list[Columns] = []
    for number, size in enumerate(sizes):
        if gap and number == 1:
            sheet.take(1)
        part = {**table("packets", size), **sheet.take(size)[0]}
        part["layers"][:], part["time"][:], part["src_port"][:] = int(Has.TIME), number + 1, number
        if number == changed:
            part["src_port"] = part["src_port"] + 100
        parts.append(part)
    for place in order:
        seal.add("packets", parts[place])
    books.open = books.captured = sum(sizes)
    (batch,) = seal.seal()
    columns, _ = unpack_body(batch)
    for name in ("time", "src_port", "dst"):
        assert np.array_equal(columns[name], np.concatenate([parts[place][name] for place in order])), name


def test_what_fills_a_sheet_is_not_copied() -> None:
    sheet = Sheet(12)
    parts = [{**table("packets", 4), **sheet.take(4)[0]} for _ in range(3)]
    joined = _join(parts)
    assert np.shares_memory(joined["time"], parts[0]["time"])
    assert len(joined["time"]) == 12


def test_a_batch_carries_the_books_with_itself_in_them() -> None:
    seal, _ = sealer(captured=12, open=12)
    (batch,) = seal.add("packets", table("packets", 12))
    assert (batch.ledger["rows"], batch.ledger["open"]) == (10, 2)
    assert (batch.rows, batch.packets, batch.flow_only, batch.first, batch.last) == (10, 10, 0, 1, 10)
    (rest,) = seal.seal()
    assert (rest.ledger["rows"], rest.ledger["open"], rest.seq) == (12, 0, 2)


def test_flow_batches_count_what_their_records_stand_for() -> None:
    seal, _ = sealer(captured=20, open=20, flow_open=30)
    (batch,) = seal.add("flows", table("flows", 10))
    assert (batch.packets, batch.flow_only) == (30, 20)
    assert (batch.ledger["flow_packets"], batch.ledger["flow_open"], batch.ledger["flow_only"]) == (30, 0, 20)


@pytest.mark.parametrize(
    ("window", "age"),
    [(0, MAX_AGE_NS), (FULL_WINDOW, MAX_AGE_NS), (1_000, MAX_AGE_NS), (32, 2 * MAX_AGE_NS), (4, LONGEST_AGE_NS)],
)
def test_batches_for_a_hub_with_many_agents_are_gathered_longer(window: int, age: int) -> None:
    assert age_of(window) == age
    seal, _ = sealer(captured=3, open=3)
    seal.add("packets", table("packets", 3))
    assert seal.due(1000, age) == seal.due(1000 + age - 1, age) == []
    assert [b.rows for b in seal.due(1000 + age, age)] == [3]


def test_old_rows_are_sealed_and_so_are_those_of_a_clock_set_back() -> None:
    seal, _ = sealer(captured=9, open=9)
    seal.add("packets", table("packets", 3))
    assert seal.due(1000) == []
    assert seal.due(1000 + MAX_AGE_NS - 1) == []
    assert [b.rows for b in seal.due(1000 + MAX_AGE_NS)] == [3]
    assert seal.due(1000 + 3 * MAX_AGE_NS) == []
    seal.add("packets", table("packets", 6))
    assert seal.due(5000) == []
    assert [b.rows for b in seal.due(4999)] == [6]


def test_rows_without_a_time_do_not_stretch_the_range() -> None:
    seal, _ = sealer(captured=3, open=3)
    columns = table("packets", 3, first=500)
    columns["layers"][0], columns["time"][0] = 0, 0
    seal.add("packets", columns)
    assert [(b.first, b.last) for b in seal.seal()] == [(501, 502)]
    columns["layers"][:] = 0
    seal.add("packets", columns)
    assert [(b.first, b.last) for b in seal.seal()] == [(0, 0)]


def test_a_body_that_is_too_large_becomes_several() -> None:
    rows = 20_000  # of 2 to 4 KiB of noise each: beyond what a batch, and what a message may hold
    seal, books = sealer(max_rows=rows, captured=rows, open=rows)
    columns = table("packets", rows)
    random = np.random.default_rng(5)
    lengths = random.integers(2048, 4096, rows).astype("<u4")
    columns["info"] = Text(lengths, random.integers(0, 128, int(lengths.sum())).astype("u1"))
    assert int(lengths.sum()) > MAX_RAW
    batches = seal.add("packets", columns)
    assert len(batches) > 1
    assert all(len(encode(batch)) <= MAX_MESSAGE for batch in batches)
    assert sum(b.rows for b in batches) == rows == books.rows
    assert books.conserved


def test_one_row_that_cannot_be_packed_takes_no_other_with_it() -> None:
    rows = 1 << HALVINGS
    seal, books = sealer(max_rows=rows, captured=rows, open=rows)
    problems: list[str] = []
    seal.on_problem = lambda reason, error: problems.append(reason)
    columns = table("packets", rows)
    columns["mpls_label"] = Lists(np.eye(1, rows, 5, dtype="u1")[0], np.array([1 << 40]))
    batches = seal.add("packets", columns)
    assert [t for b in batches for t in times(b)] == [t for t in range(1, rows + 1) if t != 6]
    assert (books.lost, books.rows, books.open) == ({"encode_error": 1}, rows - 1, 0)
    assert problems == ["encode_error"]


def test_rows_that_never_pack_are_lost_and_counted() -> None:
    seal, books = sealer(max_rows=200, captured=400, open=400, flow_open=600)
    for kind in ("packets", "flows"):
        columns = table(kind, 200)
        columns["proto"] = np.full(200, 999)
        assert seal.add(kind, columns) == []
    assert books.lost == {"encode_error": 200 + 400}
    assert (books.flow_open, seal.seq) == (0, 0)


def test_parts_that_do_not_join_are_lost_and_counted() -> None:
    seal, books = sealer(captured=20, open=20)
    seal.add("packets", table("packets", 4))
    assert seal.add("packets", table("packets", 16) | {"info": np.zeros(16)}) == []
    assert (books.lost, books.open, seal.bytes) == ({"encode_error": 20}, 0, 0)


def test_the_final_report_is_an_item_of_the_sequence() -> None:
    seal, _ = sealer(captured=10, open=10)
    seal.add("packets", table("packets", 10))
    assert seal.report() == seal.report().__class__("node", 7, 2, "report", ledger=seal.report().ledger)
    item = seal.report(final=True)
    assert (item.kind, item.final, item.seq, item.ledger["rows"]) == ("report", 1, 5, 10)


def test_a_name_that_cannot_be_sent_is_refused_at_once() -> None:
    with pytest.raises(RemoteError):
        Sealer("", 7, Report())
