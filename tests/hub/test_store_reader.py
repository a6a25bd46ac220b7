"""Readers of the store: parameters, streams that end early, bounds of a question, and readers beside a commit."""

from __future__ import annotations

import json
import threading
import time

import pytest
from store_rows import NOW, ask, packets
from store_rows import store as store

from hub.store.store import QueryError, QueryTimeout, Store, StoreBusy


def test_parameters_of_every_kind_are_bound(store: Store) -> None:
    params = {
        "s": "it's \\ a\ttab\nline é",
        "l": ["a'b", "c\\d", ""],
        "i": ["::1", "::ffff:1.2.3.4"],
        "j": "2001:db8::1",
        "u": 2**64 - 1,
        "n": -(2**63),
        "a": [0, 2**64 - 1],
        "e": [],
    }
    sql = (
        "SELECT {s:String}, {l:Array(String)}, arrayMap(x -> toString(x), {i:Array(IPv6)}), toString({j:IPv6}), "
        "{u:UInt64}, {n:Int64}, {a:Array(UInt64)}, {e:Array(UInt64)}"
    )
    assert ask(store, sql, **params) == [tuple(params.values())]
    with store.reader() as reader:
        chunks = reader.stream("SELECT {s:String} AS s, {u:UInt64} AS u", params, fmt="JSONEachRow", timeout=5)
        assert json.loads(b"".join(chunks)) == {"s": params["s"], "u": params["u"]}


@pytest.mark.parametrize("fmt", ["JSONEachRow", "LineAsString", "TSVRaw", "CSV"])
def test_a_streamed_answer_is_whole(store: Store, fmt: str) -> None:
    with store.reader() as reader:
        chunks = list(reader.stream("SELECT toString(number) AS n FROM numbers(300000)", {}, fmt=fmt, timeout=20))
    assert len(chunks) > 1
    assert b"".join(chunks).count(b"\n") == 300_000


def running(store: Store) -> int:
    return ask(store, "SELECT count() FROM system.processes WHERE query LIKE '%numbers(9000000000)%'")[0][0] - 1


def test_closing_a_stream_ends_its_query(store: Store) -> None:
    with store.reader() as reader:
        stream = reader.stream("SELECT sipHash64(number) FROM numbers(9000000000)", {}, fmt="CSV", timeout=60)
        next(stream)
        assert running(store) == 1
        stream.close()
        assert running(store) == 0
        assert b"".join(reader.stream("SELECT 1", {}, fmt="CSV", timeout=5)) == b"1\n"


def test_a_stream_left_open_does_not_empty_the_next_answer(store: Store) -> None:
    left = []
    for _ in range(5):  # every reader of the pool gets its turn
        with store.reader() as reader:
            left.append(reader.stream("SELECT number FROM numbers(9000000000)", {}, fmt="CSV", timeout=60))
            next(left[-1])
        with store.reader() as reader:
            assert b"".join(reader.stream("SELECT 1", {}, fmt="CSV", timeout=5)) == b"1\n"
    assert running(store) == 0


def test_a_query_is_cancelled_from_another_thread(store: Store) -> None:
    with store.reader() as reader:
        timer = threading.Timer(0.3, reader.cancel)
        timer.start()
        stream = reader.stream(
            "SELECT count() FROM numbers(9000000000) WHERE sipHash64(number) = 1", {}, fmt="CSV", timeout=60
        )
        with pytest.raises(QueryError) as error:
            list(stream)
        timer.join()
    assert error.value.code == 394


def test_time_and_memory_of_a_query_are_bounded(store: Store) -> None:
    slow = "SELECT count() FROM numbers(9000000000) WHERE sipHash64(number) = 1"
    large = "SELECT groupArray(number) FROM numbers(100000000)"
    with store.reader() as reader:
        with pytest.raises(QueryTimeout):
            list(reader.stream(slow, {}, fmt="CSV", timeout=0.3))
        with pytest.raises(QueryTimeout):
            reader.rows(slow, timeout=0.3)
        with pytest.raises(QueryError) as error:
            list(reader.stream(large, {}, fmt="CSV", timeout=30, max_memory=50 << 20))
        assert error.value.code == 241
        with pytest.raises(QueryError, match="UNKNOWN_TABLE"):
            reader.rows("SELECT * FROM nothing", timeout=5)


def test_readers_are_lent_up_to_their_number(store: Store) -> None:
    assert store._pool is not None
    store._pool._wait = 0.2
    lent = [store.reader() for _ in range(4)]
    readers = [context.__enter__() for context in lent]
    with pytest.raises(StoreBusy, match="all 4 readers are taken"), store.reader():
        pass
    for context in lent:
        context.__exit__(None, None, None)
    assert ask(store, "SELECT 1") == [(1,)]
    assert len({id(reader) for reader in readers}) == 4


def test_questions_are_answered_while_rows_are_committed(store: Store) -> None:
    """A query and a commit run at once: neither holds the interpreter's lock while the engine works."""
    done = threading.Event()
    answers = []

    def question() -> None:
        with store.reader() as reader:
            while not done.is_set():
                (row,) = reader.rows("SELECT count(), uniqExact(seq) FROM packets", timeout=20)
                answers.append(row)

    thread = threading.Thread(target=question)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        seq = 0
        while time.monotonic() < deadline and (seq < 5 or len(answers) < 10):
            seq += 1
            store.commit([packets(seq, 50_000)], NOW)
    finally:
        done.set()
        thread.join()
    assert len(answers) >= 10
    assert all(count == 50_000 * seqs for count, seqs in answers), "a batch was seen in part"
    assert len({seqs for _, seqs in answers}) > 1
