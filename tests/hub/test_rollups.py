"""Sums of flows and calls: an answer has the same figures from sums and from rows, whatever is asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollup_rows import HOUR, MINUTE, NOW, answer, asked, fill

from hub.query.answer import build
from hub.query.select import Question
from hub.store.errors import StoreError
from hub.store.periods import Committed, cut
from hub.store.store import Store
from protocol.filter.grammar import parse


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """35 commits of six hours, of which all but what is committed in the last are rolled up."""
    one = Store(f"chdb://{tmp_path_factory.mktemp('rollups')}/store")
    one.open(NOW)
    assert one.roll(fill(one, 35)) == 6
    assert one.rolled("flows").upto == 32
    yield one
    one.close()


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
points = st.none() | st.integers(NOW - 26 * HOUR, NOW + 8 * HOUR).map(lambda t: t // 10**9 * 10**9) | st.integers(
    -27 * 60, 8 * 60
).map(lambda minutes: (NOW // MINUTE + minutes) * MINUTE)  # fmt: skip


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


@settings(max_examples=60, deadline=None)
@given(questions())
def test_sums_say_what_rows_say(store: Store, question: Question) -> None:
    plain = answer(store, build(replace(question, commit=store.committed())))
    found, query = asked(store, question)
    assert found == plain
    assert query.rounded == ""


def test_a_long_window_is_read_from_sums_and_rows_that_are_not_summed_up_yet(store: Store) -> None:
    question = Question("flows", since=NOW + 5 * MINUTE + 1, until=NOW + 7 * HOUR + 1, by=("ip.dst",))
    assert asked(store, question)[1].tables == ("flows", "flows_minute", "flows_hour")
    assert asked(store, question, since=None, until=None)[1].tables == ("flows", "flows_hour")


@pytest.mark.parametrize(
    "changes",
    [
        {"until": NOW + HOUR},
        {"by": ("tcp.srcport",)},
        {"by": ("nodetap.epoch",)},
        {"filter": parse("flow.bytes > 100", "flows")},
        {"filter": parse("tcp.port == 80", "flows")},
        {"since": -(1 << 63)},
    ],
    ids=["short", "a column that is not there", "runs", "rows by size", "either port", "before all times"],
)
def test_other_questions_are_answered_from_rows(store: Store, changes: dict[str, Any]) -> None:
    question = Question("flows", since=NOW, until=NOW + 5 * HOUR, by=("ip.dst",))
    found, query = asked(store, question, **changes)
    assert query.tables == ()
    assert found == answer(store, build(replace(question, commit=store.committed(), **changes)))


# -- periods -------------------------------------------------------------------------------------------------------


def committed(commit: int, minute: int, rows: int = 10, day: int = 0) -> Committed:
    return Committed(commit, minute * MINUTE, day, {"flows": rows})


def test_a_period_ends_with_its_hour_its_day_or_when_it_has_enough() -> None:
    commits = [committed(1, 1), committed(3, 59), committed(4, 60), committed(7, 61, 3_000_000), committed(8, 62),
               committed(9, 70, day=1), committed(11, 121)]  # fmt: skip

    def found(now: int, everything: bool = False) -> list[tuple[int, int, int]]:
        spans = cut(commits, now * MINUTE, everything)
        return [(span.first, span.last, span.rows["flows"]) for span in spans]

    closed = [(1, 3, 20), (4, 7, 3_000_010), (8, 8, 10), (9, 9, 10)]
    assert found(150) == closed
    assert found(180) == found(150, everything=True) == [*closed, (11, 11, 10)]


def test_rows_that_are_not_all_there_are_not_summed_up(store: Store) -> None:
    with pytest.raises(StoreError, match="have 31 rows of flows, and 30 are found"):
        store._kept._roller.roll(
            [replace(span, rows={"flows": 31}) for span in cut([Committed(34, NOW, 0, {"flows": 30})], 0, True)], NOW
        )
    assert store.rolled("flows").upto == 32
