"""Answers in an order that people choose, rows and groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from ipaddress import IPv6Address, ip_address
from typing import Any

import pytest
from query_rows import entry
from test_filter import random_rows
from test_query_calls import CALLS

from hub.query.answer import build
from hub.query.groups import FIGURES
from hub.query.order import read_sort
from hub.query.output import OUTPUTS, SETTINGS
from hub.query.select import Question, WrongQuestion
from hub.store.store import Store
from protocol.schema import TABLES, Field, fields_of

NOW = 1_700_000_000 * 10**9
ROWS = {"packets": random_rows("packets", 80, 7), "flows": random_rows("flows", 60, 8), "calls": CALLS}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('order')}/store")
    store.open(NOW)
    store.commit([entry(table, rows, seq) for seq, (table, rows) in enumerate(ROWS.items(), 1)], NOW)
    yield store
    store.close()


def ask(store: Store, table: str, sort: str, **wanted: Any) -> list[dict[str, Any]]:
    query = build(Question(table, sort=read_sort(sort.split(",")), **wanted))
    with store.reader() as reader:
        chunks = reader.stream(query.sql, query.params, fmt=query.store_format, timeout=20, settings=SETTINGS)
        return [json.loads(line) for line in b"".join(chunks).splitlines()]


def comparable(field: Field, shown: Any) -> Any:
    """A value as JSON shows it as one that sorts as it should."""
    if field.kind == "ip":
        found = ip_address(shown)
        return IPv6Address(f"::ffff:{found}") if found.version == 4 else found
    if field.kind == "time":
        return Decimal(shown)
    if field.kind == "text":
        return shown.encode()
    return [part.encode() for part in shown] if field.kind == "texts" else shown


SORTABLE = [
    (table, field)
    for table in TABLES
    for field in TABLES[table].fields
    if field.kind != "map" and not (table == "packets" and field.kind == "time")  # times before 1970 are shown wrapped
]


@pytest.mark.parametrize("table", TABLES)
def test_every_field_sorts_both_ways_with_what_has_none_last(store: Store, table: str) -> None:
    for field in (field for name, field in SORTABLE if name == table):
        for way in ("asc", "desc"):
            rows = ask(store, table, f"{field.name}:{way}", limit=0, fields=(field.name,))
            assert len(rows) == len(ROWS[table])
            there = [field.name in row for row in rows]
            assert there == sorted(there, reverse=True), field.name
            values = [comparable(field, row[field.name]) for row in rows if field.name in row]
            assert values == sorted(values, reverse=way == "desc"), field.name


def test_the_limit_are_the_first_in_order(store: Store) -> None:
    longest = sorted((row["len"] for row in ROWS["packets"]), reverse=True)
    found = ask(store, "packets", "frame.len:desc", limit=5)
    assert [row["frame.len"] for row in found] == longest[:5]
    for table, sort in (("packets", "ip.src,frame.len:desc"), ("flows", "flow.rtt:desc"), ("calls", "call.latency")):
        everything = ask(store, table, sort, limit=0)
        assert len(everything) == len(ROWS[table])
        assert ask(store, table, sort, limit=2) == everything[:2]


def test_the_next_field_decides_between_equals(store: Store) -> None:
    found = ask(store, "calls", "call.error:desc,call.latency", limit=0)
    assert [row["call.error"] for row in found[:3]] == [1, 1, 0]
    latencies = [row["call.latency"] for row in found[2:] if "call.latency" in row]
    assert latencies == sorted(latencies)
    assert "call.latency" not in found[-1]


def test_groups_in_an_order(store: Store) -> None:
    def operations(sort: str, top: int = 10) -> list[str]:
        found = ask(store, "calls", sort, by=("call.operation",), top=top)
        return [row["call.operation"] for row in found]

    assert operations("call.latency_p99:desc") == ["GET /", "GET /slow", "GET /lost"]
    assert operations("call.latency_p99") == ["GET /slow", "GET /", "GET /lost"]
    assert operations("call.operation:desc", top=2) == ["GET /slow", "GET /lost"]
    assert operations("call.error_rate:desc,call.count", top=2) == ["GET /slow", "GET /lost"]
    [slow] = ask(store, "calls", "call.error_rate:desc", by=("call.operation",), top=1)
    assert (slow["call.request_bytes"], slow["call.response_bytes"]) == (40, 80)


def test_groups_sort_addresses_as_numbers(store: Store) -> None:
    found = ask(store, "flows", "ip.src", by=("ip.src",), top=0)
    values = [ip_address(row["ip.src"]) for row in found if "ip.src" in row]
    assert values == sorted(values)
    assert all("ip.src" in row for row in found[: len(values)])


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_format_has_an_order(store: Store, output: str) -> None:
    for by in ((), ("nodetap.l7",)):
        query = build(Question("calls", sort=(("nodetap.l7", True),), by=by, output=output))
        with store.reader() as reader:
            chunks = reader.stream(query.sql, query.params, fmt=query.store_format, timeout=20, settings=SETTINGS)
            assert b"".join(OUTPUTS[output].joined(chunks))


@pytest.mark.parametrize(
    ("table", "sort", "by", "hint"),
    [
        ("packets", "frame.length", (), "did you mean frame.len?"),
        ("packets", "nodetap.fields", (), "map"),
        ("flows", "flow.rtt", ("ip.src",), "groups of flows cannot be sorted by 'flow.rtt'"),
        ("calls", "call.latency_p9", ("nodetap.l7",), "did you mean call.latency_p99?"),
    ],
)
def test_what_cannot_be_sorted_by(table: str, sort: str, by: tuple[str, ...], hint: str) -> None:
    with pytest.raises(WrongQuestion) as caught:
        build(Question(table, sort=read_sort([sort]), by=by))
    assert hint in str(caught.value)


def test_directions() -> None:
    assert read_sort(["a", "b:asc", "c:desc"]) == (("a", False), ("b", False), ("c", True))
    with pytest.raises(ValueError, match="FIELD:desc"):
        read_sort(["a:up"])


def test_figures_are_no_fields_of_rows() -> None:
    """`call.request_bytes` of a group is the sum of that of its rows: the one name that both have."""
    shared = {name for table, figures in FIGURES.items() for name, *_ in figures if name in fields_of(table)}
    assert shared == {
        *(f"flow.{name}" for name in ("packets", "bytes", "packets_rev", "bytes_rev")),
        "call.request_bytes",
        "call.response_bytes",
    }
