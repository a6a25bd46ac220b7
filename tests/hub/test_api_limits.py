"""Limits of one client and of one answer: the pure parts, and what people see of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from api_server import NOW, Served, serve
from hypothesis import given
from hypothesis import strategies as st
from query_rows import entry
from test_filter import random_rows

from hub.api import allowance as allowances
from hub.api.allowance import Allowance
from hub.api.context import Limits
from hub.api.size import Size
from hub.api.turns import Turns

# -- turns ---------------------------------------------------------------------------------------------------------


def test_nobody_has_more_than_half_and_the_one_with_fewest_is_next() -> None:
    turns: Turns[str] = Turns(3)
    assert [turns.ask("hog", f"h{n}") for n in range(5)] == [True, True, False, False, False]
    assert turns.ask("ana", "a0")
    assert not turns.ask("bob", "b0")
    assert turns.done("hog") == [("bob", "b0")]  # the hog asked first, and has one
    assert turns.done("ana") == [("hog", "h2")]


def test_who_gives_up_is_not_called() -> None:
    turns: Turns[str] = Turns(1)
    assert turns.ask("ana", "a0")
    assert not turns.ask("bob", "b0")
    assert not turns.ask("bob", "b1")
    turns.give_up("b0")
    assert turns.done("ana") == [("bob", "b1")]


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(["ask", "done", "give up"]), st.sampled_from("abcd")), max_size=60),
)
def test_places_are_never_too_many_nor_left_empty(places: int, steps: list[tuple[str, str]]) -> None:
    turns: Turns[object] = Turns(places)
    running: Counter[str] = Counter()
    waiting: list[tuple[str, object]] = []
    for what, client in steps:
        mine = [one for one in waiting if one[0] == client]
        if what == "ask":
            ticket = object()
            if turns.ask(client, ticket):
                running[client] += 1
            else:
                waiting.append((client, ticket))
        elif what == "done" and running[client]:
            running[client] -= 1
            for owner, ticket in turns.done(client):
                running[owner] += 1
                waiting.remove((owner, ticket))
        elif what == "give up" and mine:
            turns.give_up(mine[0][1])
            waiting.remove(mine[0])
        assert turns.running == running.total() <= places
        assert turns.waiting == len(waiting)
        assert max(running.values(), default=0) <= turns.share
        if turns.running < places:
            assert all(running[owner] == turns.share for owner, _ in waiting)


# -- allowance -----------------------------------------------------------------------------------------------------


def test_a_bucket_for_each_client() -> None:
    allowance = Allowance(2.0)  # and ten at once
    assert [allowance.take("a", 0.0) for _ in range(11)] == [0.0] * 10 + [0.5]
    assert allowance.take("b", 0.0) == 0.0
    assert allowance.take("a", 0.5) == 0.0
    assert allowance.take("a", 0.5) > 0.0
    assert [allowance.take("a", 100.0) == 0.0 for _ in range(11)] == [True] * 10 + [False]


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200))
def test_never_more_than_the_rate_and_what_was_saved(pauses: list[float]) -> None:
    allowance, now, taken = Allowance(3.0), 0.0, 0
    for pause in pauses:
        now += pause
        wait = allowance.take("a", now)
        taken += not wait
        assert 0.0 <= wait <= 1 / 3
        assert taken <= 15 + 3.0 * now + 1e-6


def test_so_many_at_once_of_each_kind() -> None:
    allowance = Allowance(50.0, {"follow": 2})
    names = [allowance.enter("a", "follow", 0.0) for _ in range(3)]
    assert names == ["a", "a", None]
    assert allowance.enter("b", "follow", 0.0) == "b"
    assert all(allowance.enter("a", "", 0.0) is not None for _ in range(99))
    allowance.leave("a", "follow")
    assert allowance.enter("a", "follow", 0.0) == "a"


def test_countless_clients_take_bounded_memory_and_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowances, "MOST_CLIENTS", 5)
    allowance = Allowance(1.0, {"follow": 1})
    names = [allowance.enter(str(client), "follow", 0.0) for client in range(8)]
    assert names == ["0", "1", "2", "3", "4", allowances.REST, None, None]
    for name in names[:6]:
        allowance.leave(str(name), "follow")
    assert allowance.enter("new", "follow", 0.0) == "new"
    assert len(allowance._clients) == 1


# -- size ----------------------------------------------------------------------------------------------------------

LINES = st.lists(st.binary(max_size=5).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=5).map(b"".join)


@given(st.lists(LINES, max_size=8), st.integers(0, 20), st.integers(0, 60))
def test_an_answer_is_whole_lines_up_to_its_size(chunks: list[bytes], rows: int, most: int) -> None:
    size, sent = Size(rows, most), b""
    for chunk in chunks:
        sent += size.fitting(chunk)
        if size.cut:
            break
    whole = b"".join(chunks)
    assert whole.startswith(sent)
    assert sent.count(b"\n") <= rows
    assert len(sent) <= most
    assert not sent or sent.endswith(b"\n")
    assert (size.cut is None) == (sent == whole)
    if size.cut == "rows":
        assert sent.count(b"\n") == rows
    if size.cut == "bytes":
        assert len(sent) + whole[len(sent) :].index(b"\n") + 1 > most


def test_what_is_no_text_is_sent_whole_or_not() -> None:
    size = Size(0, 10, lines=False)
    assert [size.fitting(b"\n" * 6), size.fitting(b"\n" * 6)] == [b"\n" * 6, b""]
    assert size.cut == "bytes"


# -- what people see -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("limits")) as served:
        rows = [row | {"time": NOW - 10**9 + row["frame_number"]} for row in random_rows("packets", 300, 5)]
        served.commit(entry("packets", rows, 1))
        yield served


@pytest.fixture
def limited(api: Served) -> Iterator[Served]:
    hub = api.app.state.hub
    kept = hub.limits, hub.allowance
    yield api
    hub.limits, hub.allowance = kept


@pytest.mark.parametrize(("limits", "cut"), [(Limits(rows=120), "rows"), (Limits(bytes=20_000), "bytes")])
def test_a_cut_answer_says_so(limited: Served, limits: Limits, cut: str) -> None:
    whole = limited.get("/v1/packets", limit=0).text.splitlines()
    assert json.loads(whole[-1])["nodetap.completeness"]["cut"] is None
    limited.app.state.hub.limits = limits
    response = limited.get("/v1/packets", limit=0)
    assert response.headers["nodetap-most"] == f"rows={limits.rows}, bytes={limits.bytes}, seconds=300"
    *rows, end = response.text.splitlines()
    assert rows == whole[: len(rows)]
    assert 0 < len(rows) < 300
    said = json.loads(end)["nodetap.completeness"]
    assert (said["cut"], said["complete"]) == (cut, False)


@pytest.mark.parametrize("output", ["json", "csv", "arrow", "parquet"])
def test_what_cannot_say_so_breaks_off(limited: Served, output: str) -> None:
    limited.app.state.hub.limits = Limits(bytes=3_000)
    with pytest.raises(httpx.RemoteProtocolError):
        limited.get("/v1/packets", limit=0, format=output)
    limited.app.state.hub.limits = Limits()
    assert limited.get("/v1/packets", limit=0, format=output).status_code == 200


@pytest.mark.parametrize("output", ["json", "csv", "arrow", "parquet"])
def test_nor_has_it_more_rows(limited: Served, output: str) -> None:
    limited.app.state.hub.limits = Limits(rows=299)
    try:
        status = limited.get("/v1/packets", limit=0, format=output).status_code
    except httpx.RemoteProtocolError:
        status = 500
    assert status == 500
    limited.app.state.hub.limits = Limits(rows=300)
    assert limited.get("/v1/packets", limit=0, format=output).status_code == 200


def test_who_asks_too_fast_is_told_when_to_come_again(limited: Served) -> None:
    limited.app.state.hub.allowance = Allowance(0.01)
    answers = [limited.get("/v1/fields").status_code for _ in range(10)]
    assert answers == [200] * 10
    refused = limited.get("/v1/fields")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many")
    assert 90 <= int(refused.headers["retry-after"]) <= 100
    assert limited.get("/healthz").status_code == 200
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
        assert other.get(limited.url + "/v1/fields").status_code == 200


def test_so_many_followers_of_one_client(limited: Served) -> None:
    limited.app.state.hub.allowance = Allowance(50.0, {"follow": 1})
    with httpx.stream("GET", limited.url + "/v1/follow") as following:
        lines = following.iter_lines()  # httpx ends the answer with its iterator
        assert next(lines)
        refused = limited.get("/v1/follow")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many")
