"""Flows and calls for the tests of sums, many of a kind, and questions to a store."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from query_rows import Row, address, entry

from hub.query.answer import build
from hub.query.output import SETTINGS
from hub.query.select import Query, Question
from hub.store.store import Store
from protocol.filter.grammar import parse
from protocol.schema import Has

MINUTE = 60 * 10**9
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOW = 1_700_000_000 * 10**9 // DAY * DAY + 100 * MINUTE
"""100 minutes after midnight."""
V4, TCP = int(Has.IP | Has.IPV4 | Has.ETHERTYPE), int(Has.TCP | Has.HTTP)
V6, ARP = int(Has.IP | Has.IPV6 | Has.UDP), int(Has.ETHERTYPE | Has.ETH)


def ends(chance: random.Random) -> Row:
    layers = chance.choice((V4 | TCP, V4 | int(Has.UDP), V6, ARP))
    form = "fd00::{}" if layers == V6 else "10.0.0.{}"
    return {
        "layers": layers,
        "iface": chance.choice(("eth0", "lo")),
        "src": address(form.format(chance.randrange(1, 5))),
        "dst": address(form.format(chance.randrange(5, 9))),
        "proto": chance.choice((6, 17)),
        "src_port": chance.randrange(65536),
        "dst_port": chance.choice((53, 80, 443)),
    }


def flow(chance: random.Random, around: int) -> Row:
    start = around + chance.randrange(-HOUR, 20 * MINUTE)
    return {
        **ends(chance),
        "start": start,
        "end": start + chance.choice((0, 10**9, 10 * 10**9, 3 * MINUTE)),
        "ethertype": chance.choice((2048, 2054)),
        "packets": chance.randrange(1, 9),
        "bytes": chance.randrange(1 << 33),
        "packets_rev": chance.randrange(9),
        "bytes_rev": chance.randrange(9000),
    }


def call(chance: random.Random, around: int) -> Row:
    row = flow(chance, around)
    latency = chance.choice((-1, 0, row["end"] - row["start"], chance.randrange(10**9)))
    more = {"latency": latency, "error": chance.randrange(2), "l7": "HTTP", "status": chance.choice(("", "200"))}
    wanted = ("layers", "iface", "src", "dst", "proto", "src_port", "dst_port", "start", "end")
    kept = {name: row[name] for name in wanted}
    return kept | more | {"operation": f"GET /{chance.randrange(3)}", "request_bytes": 7, "response_bytes": 70}


def fill(store: Store, commits: int, seed: int = 1, day: int = 0) -> int:
    """Commits ten minutes apart of rows from around then, now and then from a day before; the time of the last."""
    chance, begin, first = random.Random(seed), NOW + day * DAY, 1000 * day
    for seq in range(first, first + commits):
        now = begin + (seq - first) * 10 * MINUTE
        around = now - DAY * (chance.randrange(8) == 0)
        agent = f"web-{chance.randrange(2)}"
        batches = [
            entry("flows", [flow(chance, around) for _ in range(30)], 2 * seq + 1, agent),
            entry("calls", [call(chance, around) for _ in range(20)], 2 * seq + 2, agent),
        ]
        store.commit(batches[: 1 + (seq % 3 > 0)], now)
    return begin + commits * 10 * MINUTE


def answer(store: Store, query: Query) -> list[dict[str, Any]]:
    with store.reader() as reader:
        chunks = reader.stream(query.sql, query.params, fmt=query.store_format, timeout=60, settings=SETTINGS)
        return [json.loads(line) for line in b"".join(chunks).splitlines()]


def asked(store: Store, question: Question, **changes: Any) -> tuple[list[dict[str, Any]], Query]:
    rolled = store.rolled(question.table)
    query = build(replace(question, rolled=rolled, commit=store.committed(), **changes))
    return answer(store, query), query


FILTERS = {
    "flows": ("tcp", "ip.src == 10.0.0.1 or ipv6", "udp.dstport in {53, 80} and not nodetap.iface == lo"),
    "calls": ("call.error == 1", "http and nodetap.agent == web-1", 'call.operation contains "1"'),
}
BY = {
    "flows": ("ip.src", "ip.dst", "ipv6.src", "nodetap.agent", "nodetap.proto", "tcp.dstport", "nodetap.ethertype"),
    "calls": ("call.operation", "call.status", "call.error", "nodetap.l7", "ip.dst", "nodetap.agent"),
}
SORTS = {
    "flows": ("flow.bytes", "flow.records", "flow.packets_rev"),
    "calls": ("call.latency_p95", "call.errors", "call.latency_p50", "call.request_bytes"),
}
points = st.none() | st.one_of(
    st.integers(NOW - 50 * HOUR, NOW + 34 * HOUR).map(lambda t: t // 10**9 * 10**9),
    st.integers(-50 * 60, 34 * 60).map(lambda minutes: (NOW // MINUTE + minutes) * MINUTE),
    st.integers(-2, 2).map(lambda days: (NOW // DAY + days) * DAY),
)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    table = draw(st.sampled_from(("flows", "calls")))
    by = draw(st.lists(st.sampled_from(BY[table]), min_size=1, max_size=3, unique=True))
    sort = draw(st.lists(st.tuples(st.sampled_from((*SORTS[table], *by)), st.booleans()), max_size=2))
    text = draw(st.none() | st.sampled_from(FILTERS[table]))
    tree = parse(text, table) if text else None
    top = draw(st.sampled_from((0, 3)))
    sketch = draw(st.booleans())
    return Question(
        table, tree, draw(points), draw(points), by=tuple(by), sort=tuple(sort), top=top, sketch=sketch
    )  # fmt: skip
