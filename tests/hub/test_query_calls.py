"""Calls in the store: rows, figures of groups, and what a crash leaves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from query_rows import Row, address, as_json, entry

from hub.query.answer import build
from hub.query.output import SETTINGS
from hub.query.select import Question
from hub.store.store import Store
from protocol.filter.grammar import parse
from protocol.ledger import Held
from protocol.schema import PARTS, Has
from protocol.sketch import SKETCH, bucket_of

NOW = 1_700_000_000 * 10**9


def ask(store: Store, **wanted: Any) -> list[dict[str, Any]]:
    query = build(Question("calls", **wanted))
    with store.reader() as reader:
        chunks = reader.stream(query.sql, query.params, fmt=query.store_format, timeout=20, settings=SETTINGS)
        return [json.loads(line) for line in b"".join(chunks).splitlines()]


def call(number: int, latency: int, operation: str = "GET /", error: int = 0) -> Row:
    seen = latency >= 0
    layers = int(Has.IP | Has.IPV4 | Has.TCP | Has.HTTP)
    start = NOW + number * 10**6
    row = {
        "start": start,
        "end": start + max(latency, 0),
        "latency": latency,
        "layers": layers,
        "proto": 6,
        "iface": "eth0",
    }
    named = {"l7": "HTTP", "operation": operation, "status": ("200", "500")[error] if seen else "", "error": error}
    return {
        **row,
        **named,
        "src": address("10.0.0.1"),
        "dst": address("10.0.0.2"),
        "src_port": number,
        "dst_port": 80,
        "request_bytes": 10,
        "response_bytes": 20,
    }


CALLS = [
    *(call(n, n * 10**6) for n in range(1, 100)),
    *(call(200 + n, 5 * 10**6, "GET /slow", error=n % 2) for n in range(4)),
    call(300, -1, "GET /lost"),
]


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('calls')}/store")
    store.open(NOW)
    store.commit([entry("calls", CALLS, 1)], NOW)
    yield store
    store.close()


def test_calls_are_rows(called: Store) -> None:
    found = ask(called, limit=0)
    assert found == [
        as_json("calls", row | {"epoch": 7, "agent": "web-1"} | {c.name: "" for c in PARTS}) for row in CALLS
    ]
    slow = ask(called, filter=parse("call.latency > 0.098 and http", "calls"))
    assert [row["tcp.srcport"] for row in slow] == [99]
    (lost,) = ask(called, filter=parse("not call.latency", "calls"))
    assert (lost["call.operation"], "call.status" in lost, "call.latency" in lost) == ("GET /lost", False, False)


def test_figures_of_calls(called: Store) -> None:
    groups = {row["call.operation"]: row for row in ask(called, by=("call.operation",))}
    assert list(groups) == ["GET /", "GET /slow", "GET /lost"]
    names = ("call.count", "call.errors", "call.error_rate", "call.unanswered")
    assert [groups["GET /slow"][name] for name in names] == [4, 2, 0.5, 0]
    assert [groups["GET /lost"][name] for name in names] == [1, 0, 0, 1]
    found = [groups["GET /"][f"call.latency_p{percent}"] for percent in (50, 95, 99)]
    assert found == pytest.approx([0.050, 0.094, 0.098], rel=0.0101)  # of 99 values
    assert groups["GET /slow"]["call.latency_p99"] == pytest.approx(0.005, rel=0.0101)
    assert "call.latency_p50" not in groups["GET /lost"]


def test_calls_without_lines_are_found_again_and_count_no_packets(called: Store) -> None:
    called._writer.command("TRUNCATE TABLE batches")  # as after a crash between the inserts
    called.close()
    called.open(NOW)
    (run,) = called.epochs()
    assert (list(run.seqs), run.held) == ([(1, 1)], Held())
    assert len(ask(called, by=("nodetap.l7",))) == 1


def test_sketches_of_latencies_are_told_when_asked_for(called: Store) -> None:
    latencies = [row["call.latency"] for row in ask(called, limit=0) if "call.latency" in row]
    (group,) = ask(called, by=("nodetap.iface",), sketch=True)
    buckets, counts = json.loads(group[SKETCH])
    assert dict(zip(buckets, counts, strict=True)) == dict(Counter(bucket_of(round(s * 1e9)) for s in latencies))
    assert SKETCH not in ask(called, by=("nodetap.iface",))[0]
