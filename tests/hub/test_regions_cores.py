"""Answers of several hubs put together: order, sums, quantiles, CSV. No hub."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hub.cli.regions import formats, said
from hub.cli.regions.order import lines, merged, order, read
from hub.cli.regions.sums import Groups, quantiles_of
from protocol.sketch import GAMMA, SKETCH, bucket_of, value_of

NUMBERS = st.one_of(st.none(), st.integers(0, 5))
ROWS = st.lists(
    st.fixed_dictionaries({"tcp.srcport": NUMBERS, "ip.src": st.sampled_from([None, "10.0.0.9", "10.0.0.10"])}),
    max_size=8,
)  # fmt: skip


def ndjson(rows: list[dict[str, Any]]) -> list[bytes]:
    """One block of lines, absent fields absent."""
    return [b"".join(json.dumps({k: v for k, v in row.items() if v is not None}).encode() + b"\n" for row in rows)]


@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from(["tcp.srcport:desc,ip.src", "ip.src:desc,tcp.srcport"]))
def test_sorted_answers_merge_as_one_sorted_answer(answers: list[list[dict[str, Any]]], sort: str) -> None:
    by = order("packets", read(sort), ())
    each = [sorted(rows, key=by.key) for rows in answers]
    found = [json.loads(line) for line in merged([lines(ndjson(rows), by, ()) for rows in each])]
    assert [by.key(row) for row in found] == sorted(by.key(row) for rows in answers for row in rows)
    first = sort.partition(":")[0]
    absent = [first not in row for row in found]
    assert absent == sorted(absent), "what has no value comes last"


def test_addresses_sort_as_numbers_and_hidden_fields_are_left_out() -> None:
    by = order("packets", read("ip.src"), ("frame.number",))
    rows = [{"ip.src": "9.9.9.9", "frame.number": 2}, {"ip.src": "10.0.0.9", "frame.number": 1}]
    found = merged([lines(ndjson(rows), by, ["frame.number"]), lines(ndjson([{"ip.src": "10.0.0.10"}]), by, [])])
    assert [json.loads(line) for line in found] == [{"ip.src": ip} for ip in ("9.9.9.9", "10.0.0.9", "10.0.0.10")]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_quantiles_of_sketches_are_within_one_percent(latencies: list[int]) -> None:
    buckets: dict[int, int] = {}
    for latency in latencies:
        buckets[bucket_of(latency)] = buckets.get(bucket_of(latency), 0) + 1
    ranked = sorted(max(latency, 1) for latency in latencies)
    for name, share in (("call.latency_p50", 0.5), ("call.latency_p95", 0.95), ("call.latency_p99", 0.99)):
        exact = ranked[int(share * (len(ranked) - 1))]
        assert abs(quantiles_of(buckets)[name] * 1e9 - exact) <= exact * (GAMMA - 1) / (GAMMA + 1) * 1.0001


def test_a_bucket_holds_its_middle() -> None:
    assert all(bucket_of(value_of(bucket)) == bucket for bucket in range(1, 1400, 7))


def call_group(name: str, count: int, errors: int, latency: float, buckets: list[list[int]]) -> dict[str, Any]:
    return {
        "nodetap.l7": name, "call.count": count, "call.errors": errors, "call.error_rate": errors / count,
        "call.unanswered": 0, "call.latency_p50": latency, "call.latency_p95": latency, "call.latency_p99": latency,
        "call.request_bytes": 10, "call.response_bytes": 20, SKETCH: json.dumps(buckets),
    }  # fmt: skip


def test_calls_add_up_and_only_shared_groups_use_sketches() -> None:
    groups = Groups("calls", ["nodetap.l7"])
    groups.add(call_group("DNS", 3, 1, 0.001, [[bucket_of(1e6)], [3]]))
    groups.add(call_group("DNS", 1, 1, 0.1, [[bucket_of(1e8)], [1]]))
    groups.add(call_group("HTTP", 2, 0, 0.123456789, [[bucket_of(123456789)], [2]]))
    dns, http = groups.rows([], 10)
    assert (dns["call.count"], dns["call.error_rate"], dns["call.request_bytes"]) == (4, 0.5, 20)
    assert abs(dns["call.latency_p50"] / 0.001 - 1) < 0.0101
    assert http["call.latency_p99"] == 0.123456789
    assert SKETCH not in dns
    assert SKETCH not in http
    assert [row["nodetap.l7"] for row in groups.rows([("call.latency_p50", True)], 1)] == ["HTTP"]


def test_csv_quotes_what_is_text() -> None:
    rows = ndjson([{"nodetap.info": 'a "b", c', "vlan.id": [1, 2], "frame.len": 3}, {"frame.len": 4}])
    columns = [("nodetap.info", "text"), ("vlan.id", "uints"), ("frame.len", "uint")]
    text = b"".join(formats.csv(rows, columns)).decode()
    assert text.splitlines()[1:] == ['"a ""b"", c","1,2",3', ',"",4']
    assert list(csv.reader(io.StringIO(text)))[1] == ['a "b", c', "1,2", "3"]


def test_a_missing_hub_makes_everything_incomplete() -> None:
    whole = {
        "since": 1,
        "until": None,
        "agents": ["a"],
        "missing": [],
        "gaps": [],
        "lost": {"shed": 2},
        "complete": True,
    }
    told = said.completeness({"http://a": whole, "http://b": whole, "http://c": "it sleeps"})
    assert (told["complete"], told["agents"], told["lost"]) == (False, ["a", "a"], {"shed": 4})
    assert told["missing"] == [{"hub": "http://c", "reason": "it sleeps"}]
    assert [hub["complete"] for hub in told["hubs"]] == [True, True, False]
    assert said.completeness({"http://a": whole, "http://b": whole})["complete"]
    books = {"balanced": True, "complete": True, "agents": [{"agent": "a"}]}
    ledger = said.ledger({"http://a": books, "http://c": "it sleeps"})
    assert (ledger["balanced"], ledger["complete"], ledger["agents"]) == (
        True,
        False,
        [{"agent": "a", "hub": "http://a"}],
    )
