"""Sums of flows and calls: an answer has the same figures from sums and from rows, whatever is asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from rollup_rows import HOUR, MINUTE, NOW, answer, asked, fill, questions

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


def test_rows_that_are_not_all_there_are_not_summed_up(store: Store) -> None:
    with pytest.raises(StoreError, match="have 31 rows of flows, and 30 are found"):
        store._kept._roller.roll(
            [replace(span, rows={"flows": 31}) for span in cut([Committed(34, NOW, 0, {"flows": 30})], 0, True)], NOW
        )
    assert store.rolled("flows").upto == 32
