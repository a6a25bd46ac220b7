"""Follow over real sockets: every row once, in commit order, from any cursor."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from api_server import NOW, Served, serve, wait_for
from hypothesis import given
from hypothesis import strategies as st
from query_rows import Row, entry

from hub.query import follow as cursors
from hub.query.follow import Place, WrongCursor, decode, encode

ORDER = ("nodetap.agent", "nodetap.epoch")


def rows(first: int, count: int, start: int = NOW) -> list[Row]:
    return [{"frame_number": first + n, "time": start + n, "layers": 1, "len": n % 3} for n in range(count)]


def flow_rows(count: int) -> list[Row]:
    """Flow records, some of them equal in every column."""
    return [{"start": NOW + n // 3, "end": NOW + n // 3, "packets": n // 3} for n in range(count)]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("follow")) as served:
        served.commit(entry("packets", rows(1, 10), 1), entry("packets", rows(1, 5), 1, agent="db-1"))
        served.commit(entry("packets", rows(11, 10, NOW + 100), 2), entry("flows", flow_rows(20), 3))
        served.commit(entry("flows", flow_rows(5), 2, agent="db-1"))
        yield served


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "PAGE_ROWS", 4)
    monkeypatch.setattr(cursors, "CHUNK_ROWS", 12)


@contextmanager
def following(api: Served, **params: Any) -> Iterator[Iterator[dict[str, Any]]]:
    url = api.url + "/v1/follow"
    with httpx.stream("GET", url, params={"heartbeat": 0.3, **params}, timeout=20) as response:
        assert response.status_code == 200, response.read()
        lines = response.iter_lines()
        yield (json.loads(line) for line in lines)


def take(lines: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The next rows, heartbeats left out."""
    found: list[dict[str, Any]] = []
    end = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} rows of {count} came"
        line = next(lines)
        if "nodetap.cursor" in line:
            found.append(line)
        else:
            assert "nodetap.heartbeat" in line, line
    return found


def beat(lines: Iterator[dict[str, Any]]) -> str:
    """The cursor of the next line, which is a heartbeat."""
    return str(next(lines)["nodetap.heartbeat"]["cursor"])


PACKETS = [("db-1", n) for n in range(1, 6)] + [("web-1", n) for n in range(1, 21)]


def names(found: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["nodetap.agent"], row["frame.number"]) for row in found]


def test_the_backlog_comes_in_commit_order(api: Served, small_pages: None) -> None:
    with following(api, since="all") as lines:
        assert names(take(lines, 25)) == PACKETS


def test_every_cursor_goes_on_with_the_next_row(api: Served, small_pages: None) -> None:
    with following(api, since="all") as lines:
        whole = take(lines, 25)
    for index in range(0, 24, 3):
        with following(api, cursor=whole[index]["nodetap.cursor"]) as lines:
            assert take(lines, 24 - index) == whole[index + 1 :]


def test_flow_records_that_are_equal_come_once_each(api: Served, small_pages: None) -> None:
    with following(api, table="flows", since="all") as lines:
        whole = take(lines, 25)
    assert [row["flow.packets"] for row in whole] == [n // 3 for n in range(20)] + [n // 3 for n in range(5)]
    for index in range(24):
        with following(api, table="flows", cursor=whole[index]["nodetap.cursor"]) as lines:
            assert take(lines, 24 - index) == whole[index + 1 :]


def test_a_filter_does_not_move_the_cursors(api: Served, small_pages: None) -> None:
    with following(api, since="all") as lines:
        whole = take(lines, 25)
    with following(api, since="all", filter="frame.len == 1") as lines:
        some = take(lines, 8)
    assert some == [row for row in whole if row["frame.len"] == 1]


def test_the_backlog_remembers_where_it_began(api: Served, small_pages: None) -> None:
    """`since` holds for what is stored, also after a reconnection with the cursor alone."""
    with following(api, since=str(NOW + 102)) as lines:
        first, second = take(lines, 2)
        assert names([first, second]) == [("web-1", 13), ("web-1", 14)]
    with following(api, cursor=first["nodetap.cursor"]) as lines:
        assert names(take(lines, 2)) == [("web-1", 14), ("web-1", 15)]


def test_rows_come_as_they_are_stored(api: Served) -> None:
    with following(api, fields="frame.number", filter="nodetap.agent == live") as lines:
        start = beat(lines)
        api.commit(entry("packets", rows(1, 3), 1, agent="live"), entry("packets", rows(1, 3), 1, agent="other"))
        found = take(lines, 3)
        assert [row["frame.number"] for row in found] == [1, 2, 3]
        assert set(found[0]) == {"nodetap.cursor", "frame.number"}
        while (later := beat(lines)) == start:
            pass
        api.commit(entry("packets", rows(4, 1), 2, agent="live"))
        assert [row["frame.number"] for row in take(lines, 1)] == [4]
    for cursor, numbers in ((start, [1, 2, 3, 4]), (later, [4]), (found[1]["nodetap.cursor"], [3, 4])):
        with following(api, cursor=cursor, filter="nodetap.agent == live") as lines:
            assert [row["frame.number"] for row in take(lines, len(numbers))] == numbers


def test_a_cursor_outlives_the_hub(api: Served) -> None:
    """What counts is in the cursor and in the store: another application over the same store goes on."""
    with following(api, since="all") as lines:
        whole = take(lines, 12)
    place = decode(whole[6]["nodetap.cursor"], api.store.id, "packets")
    assert place.row == ("web-1", 7, 1, 2)
    assert encode(api.store.id, "packets", place) == whole[6]["nodetap.cursor"]


def test_commits_while_following_lose_and_repeat_nothing(api: Served, small_pages: None) -> None:
    total = 40

    def write() -> None:
        for seq in range(1, total + 1):
            api.commit(entry("packets", rows(5 * seq, 5), seq, agent="busy"))

    with following(api, filter="nodetap.agent == busy") as lines:
        beat(lines)
        writer = threading.Thread(target=write)
        writer.start()
        found = take(lines, 60)
    with following(api, filter="nodetap.agent == busy", cursor=found[-1]["nodetap.cursor"]) as lines:
        found += take(lines, 5 * total - 60)
    writer.join()
    assert [row["frame.number"] for row in found] == list(range(5, 5 * total + 5))


def test_calls_are_followed_as_flows_are(api: Served, small_pages: None) -> None:
    calls = [{"start": NOW + n // 3, "end": NOW + n // 3, "operation": f"GET /{n // 2}"} for n in range(9)]
    api.commit(entry("calls", calls, 9, agent="called"))
    with following(api, table="calls", since="all") as lines:
        whole = take(lines, 9)
    assert [row["call.start"] for row in whole] == sorted(row["call.start"] for row in whole)
    assert Counter(row["call.operation"] for row in whole) == Counter(f"GET /{n // 2}" for n in range(9))
    with following(api, table="calls", cursor=whole[4]["nodetap.cursor"]) as lines:
        assert take(lines, 4) == whole[5:]


def test_who_is_late_skips_and_is_told_how_much(api: Served) -> None:
    some = {"filter": "frame.number > 2 and nodetap.agent == tardy", "fields": "frame.number"}
    with following(api, max_lag=5, **some) as lines:
        beat(lines)
        api.store.commit([entry("packets", rows(1, 4), 1, agent="tardy")], api.now[0])
        api.now[0] += 6 * 10**9
        api.commit(entry("packets", rows(5, 2), 2, agent="tardy"))
        told = next(line for line in lines if "nodetap.heartbeat" not in line)["nodetap.skipped"]
        assert (told["rows"], told["seconds"]) == (4, 6.0)
        api.commit(entry("packets", rows(7, 1), 3, agent="tardy"))
        assert [row["frame.number"] for row in take(lines, 1)] == [7]
    with following(api, cursor=told["cursor"], **some) as lines:  # what was skipped is still there
        assert [row["frame.number"] for row in take(lines, 4)] == [3, 4, 5, 6]


def test_what_was_there_before_is_never_skipped(api: Served, small_pages: None) -> None:
    api.commit(entry("packets", rows(1, 9), 1, agent="old"))
    api.now[0] += 60 * 10**9
    with following(api, max_lag=5, since="all", filter="nodetap.agent == old") as lines:
        assert len(take(lines, 9)) == 9


def test_nor_is_the_rest_of_the_newest_commit(api: Served) -> None:
    api.commit(entry("packets", rows(1, 9), 1, agent="newest"))
    some = {"filter": "nodetap.agent == newest"}
    with following(api, since="all", **some) as lines:
        cursor = take(lines, 3)[2]["nodetap.cursor"]
    api.now[0] += 60 * 10**9
    with following(api, max_lag=5, cursor=cursor, **some) as lines:
        assert len(take(lines, 6)) == 6


def test_a_page_is_cut_where_it_becomes_too_large(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "PAGE_BYTES", 1)
    with following(api, since="all", filter="nodetap.agent in {web-1, db-1}") as lines:
        assert names(take(lines, 25)) == PACKETS


def test_the_first_heartbeat_says_where_the_rows_begin(api: Served) -> None:
    with following(api, since="all") as lines:
        assert next(lines)["nodetap.heartbeat"]["since"] is None
        cursor = take(lines, 15)[14]["nodetap.cursor"]
    with following(api, cursor=cursor) as lines:
        assert next(lines)["nodetap.heartbeat"]["since"] is None
    before = Place(api.commit(entry("packets", rows(1, 2, NOW + 500), 1, agent="begins")) - 1)
    with following(api, cursor=encode(api.store.id, "packets", before)) as lines:
        assert next(lines)["nodetap.heartbeat"]["since"] == NOW + 500
    with following(api) as lines:
        assert next(lines)["nodetap.heartbeat"]["since"] == api.now[0]


def test_a_follower_that_leaves_frees_its_place(api: Served) -> None:
    hub = api.app.state.hub
    wait_for(lambda: hub.followers == 0)
    with following(api) as lines:
        beat(lines)
        assert hub.followers == 1
    wait_for(lambda: hub.followers == 0)


def test_what_retention_took_is_said(api: Served) -> None:
    """Last in the file: the oldest day goes."""
    with following(api, since="all") as lines:
        cursor = take(lines, 3)[-1]["nodetap.cursor"]
    day = 86400 * 10**9
    api.now[0] += 30 * day
    api.commit(entry("packets", rows(1, 2), 1, agent="late"))
    api.store.retain(api.now[0])
    with following(api, cursor=cursor) as lines:
        beat(lines)
        lost = next(line for line in lines if "nodetap.heartbeat" not in line)["nodetap.lost"]
        assert lost["rows"] >= 25
        assert lost["commits"] >= 2
        assert names(take(lines, 2)) == [("late", 1), ("late", 2)]
    with following(api, since="all") as lines:  # who begins now has lost nothing
        assert names(take(lines, 2)) == [("late", 1), ("late", 2)]


# -- cursors -------------------------------------------------------------------------------------------------------

U64 = st.integers(0, (1 << 64) - 1)
PLACES = st.builds(
    Place,
    U64,
    st.none() | st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), U64, U64, U64),
    st.none() | st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), U64),
)


@given(PLACES, st.sampled_from(["packets", "flows"]))
def test_cursors_round_trip(place: Place, table: str) -> None:
    assert decode(encode("store", table, place), "store", table) == place


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda b: encode("s", "packets", Place(1)) + b.hex()))
def test_damaged_cursors_are_refused(text: str) -> None:
    with pytest.raises(WrongCursor):
        decode(text, "store", "packets")


def test_a_cursor_of_another_store_or_table_is_refused() -> None:
    with pytest.raises(WrongCursor) as caught:
        decode(encode("a", "packets", Place(1)), "b", "packets")
    assert caught.value.code == "wrong_store"
    with pytest.raises(WrongCursor) as caught:
        decode(encode("a", "packets", Place(1)), "a", "flows")
    assert caught.value.code == "bad_cursor"
