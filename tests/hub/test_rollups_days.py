"""Days of ingest that are joined: their sums by day say what rows say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from rollup_rows import DAY, MINUTE, NOW, answer, asked, fill, questions

from hub.query.answer import build
from hub.query.select import Question
from hub.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """35 commits on each of two days, of which the first is over and joined; most hours of the second are rolled up."""
    one = Store(f"chdb://{tmp_path_factory.mktemp('days')}/store")
    one.open(NOW)
    fill(one, 35)
    one.roll(fill(one, 35, seed=2, day=1))
    assert [len(one.rolled(table).days) for table in ("flows", "calls")] == [1, 1]
    yield one
    one.close()


@settings(max_examples=60, deadline=None)
@given(questions())
def test_sums_say_what_rows_say(store: Store, question: Question) -> None:
    found, query = asked(store, question)
    assert found == answer(store, build(replace(question, commit=store.committed())))
    assert query.rounded == ""


def test_whole_days_are_read_from_sums_by_day_where_the_day_of_ingest_is_joined(store: Store) -> None:
    midnight = NOW // DAY * DAY
    everything = ("flows", "flows_hour", "flows_day")
    windows = {(None, None): everything, (midnight, midnight + DAY): everything, (None, midnight): everything,
               (midnight, midnight + DAY - 1): ("flows", "flows_minute", "flows_hour"),
               (midnight - MINUTE, NOW + 2 * DAY): ("flows", "flows_minute", "flows_hour", "flows_day")}  # fmt: skip
    for (since, until), tables in windows.items():
        question = Question("flows", since=since, until=until, by=("ip.dst",), top=0)
        found, query = asked(store, question)
        assert query.tables == tables, (since, until)
        assert found == answer(store, build(question))
