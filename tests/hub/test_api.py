"""The API over real sockets: answers, refusals, tokens, limits."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import NOW, Served, serve, wait_for
from pyarrow import ipc, parquet
from query_rows import entry
from store_rows import packets as many
from test_filter import random_rows

from hub.api.context import Limits
from hub.api.problems import PROBLEMS
from hub.api.routes import OPEN, ROUTES
from hub.api.runner import Runner
from hub.tokens import Tokens
from protocol.filter.names import names_of
from protocol.messages import Hello
from protocol.schema import TABLES, fields_of

PACKETS = [row | {"time": NOW - 10**9 + row["frame_number"]} for row in random_rows("packets", 300, 5)]
FLOWS = [row | {"start": NOW - 10**9, "end": NOW} for row in random_rows("flows", 30, 6)]


class Connection:
    """What the register wants of a connection."""

    number = 5
    connection = "c5"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("api")) as served:
        served.commit(entry("packets", PACKETS, 1), entry("flows", FLOWS, 2))
        yield served


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


# -- rows ----------------------------------------------------------------------------------------------------------


def test_ndjson_ends_with_its_completeness(api: Served) -> None:
    response = api.get("/v1/packets", limit=0)
    assert response.headers["content-type"] == "application/x-ndjson"
    *rows, end = lines(response)
    assert [row["frame.number"] for row in rows] == [row["frame_number"] for row in PACKETS]
    complete = end["nodetap.completeness"]
    assert complete["agents"] == ["web-1"]
    assert (complete["since"], complete["until"]) == (NOW - 15 * 60 * 10**9, None)


def test_the_default_is_the_newest_100_of_15_minutes(api: Served) -> None:
    *rows, _ = lines(api.get("/v1/packets"))
    assert [row["frame.number"] for row in rows] == list(range(201, 301))
    api.now[0] = NOW + 20 * 60 * 10**9
    try:
        assert len(lines(api.get("/v1/packets"))) == 1
    finally:
        api.now[0] = NOW


def test_no_rows_is_an_answer(api: Served) -> None:
    (end,) = lines(api.get("/v1/packets", filter="frame.number == 0"))
    assert "nodetap.completeness" in end
    assert api.get("/v1/packets", filter="frame.number == 0", format="json").json() == []


def test_every_format_has_the_same_rows(api: Served) -> None:
    *rows, _ = lines(api.get("/v1/flows", limit=0))
    assert api.get("/v1/flows", limit=0, format="json").json() == rows
    text = api.get("/v1/flows", limit=0, format="csv", fields="flow.packets,ip.src").text
    assert text.splitlines()[0] == "flow.packets,ip.src"
    assert [int(line.split(",")[0]) for line in text.splitlines()[1:]] == [row["flow.packets"] for row in rows]
    file, stream = (api.get("/v1/flows", limit=0, format=output).content for output in ("parquet", "arrow"))
    for table in (parquet.read_table(io.BytesIO(file)), ipc.open_stream(stream).read_all()):
        assert table["flow.packets"].to_pylist() == [row["flow.packets"] for row in rows]


def test_the_window_comes_back_and_gives_the_same_completeness(api: Served) -> None:
    answer = api.get("/v1/packets", since="5m", until="1s", limit=0)
    since, until = answer.headers["nodetap-since"], answer.headers["nodetap-until"]
    assert (int(since), int(until)) == (NOW - 300 * 10**9, NOW - 10**9)
    only = api.get("/v1/packets", since=since, until=until, completeness="only").json()
    assert only == lines(answer)[-1]["nodetap.completeness"]


def test_groups(api: Served) -> None:
    *rows, _ = lines(api.get("/v1/flows", by="ip.src", top=3))
    assert len(rows) == 3
    assert all("flow.records" in row for row in rows)


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("/v1/packets", {"filter": "ip.srcc == 1.2.3.4"}, 400, "bad_filter"),
        ("/v1/packets", {"filter": "nodetap.info matches 'a{1001}'"}, 400, "bad_filter"),
        ("/v1/packets", {"sinse": "5m"}, 400, "bad_parameter"),
        ("/v1/packets", {"since": "yesterday"}, 400, "bad_parameter"),
        ("/v1/packets", {"since": "2026-01-01T00:00:00"}, 400, "bad_parameter"),
        ("/v1/packets", {"limit": "-1"}, 400, "bad_parameter"),
        ("/v1/packets", {"limit": ["1", "2"]}, 400, "bad_parameter"),
        ("/v1/packets", {"fields": "ip.scr"}, 400, "bad_parameter"),
        ("/v1/packets", {"format": "xml"}, 400, "bad_parameter"),
        ("/v1/packets", {"by": "ip.src"}, 400, "bad_parameter"),
        ("/v1/packets", {"sort": "ip.scr"}, 400, "bad_parameter"),
        ("/v1/packets", {"sort": "ip.src:up"}, 400, "bad_parameter"),
        ("/v1/flows", {"by": "ip.src", "sort": "flow.rtt"}, 409, "contradiction"),
        ("/v1/flows", {"by": "ip.src", "sort": "flow.rt"}, 400, "bad_parameter"),
        ("/v1/flows", {"by": "ip.src", "fields": "ip.src"}, 409, "contradiction"),
        ("/v1/flows", {"by": "nonsense"}, 400, "bad_parameter"),
        ("/v1/flows", {"by": "ip.src,flow.bytes"}, 400, "bad_parameter"),
        ("/v1/calls", {"by": "call.request_bytes", "format": "csv"}, 400, "bad_parameter"),
        ("/v1/follow", {"cursor": "nonsense"}, 409, "bad_cursor"),
        ("/v1/follow", {"cursor": "eyJhIjpbInBhY2tldHMiLDEsbnVsbF19"}, 409, "wrong_store"),
        ("/v1/follow", {"heartbeat": "0"}, 400, "bad_parameter"),
        ("/v1/nothing", {}, 404, "not_found"),
    ],
)
def test_refusals_are_problems(api: Served, path: str, params: dict[str, Any], status: int, code: str) -> None:
    response = api.get(path, **params)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert {"type", "title", "status", "detail", "code"} <= set(problem)
    assert "\n" not in problem["detail"]


def test_a_wrong_filter_says_where_and_what_else(api: Served) -> None:
    problem = api.get("/v1/packets", filter="tcp and ip.srcc == 1.2.3.4").json()
    assert (problem["column"], problem["suggestion"]) == (9, "ip.src")


def test_a_method_that_is_not_taken(api: Served) -> None:
    response = httpx.post(api.url + "/v1/packets")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    for path, methods in (("/v1/packets", {"GET", "HEAD"}), ("/v1/configure", {"GET", "HEAD", "PUT", "DELETE"})):
        assert set(httpx.post(api.url + path).headers["allow"].split(", ")) == methods
    assert httpx.head(api.url + "/v1/status").status_code == 200


def test_following_for_a_while_ends_with_where_to_go_on(api: Served) -> None:
    *_, last = lines(api.get("/v1/follow", since="all", seconds="1", heartbeat="60"))
    assert last["nodetap.heartbeat"]["cursor"]


# -- the small resources -------------------------------------------------------------------------------------------


def test_agents_and_forget(api: Served) -> None:
    hello = Hello([1], "web-2", "node-2", 9, [9])
    connection = Connection()
    api.loop.call_soon_threadsafe(api.register.join, hello, connection, NOW)
    wait_for(lambda: any(a["agent"] == "web-2" for a in api.get("/v1/agents").json()["agents"]))
    refused = httpx.delete(api.url + "/v1/agents/web-2")
    assert (refused.status_code, refused.json()["code"]) == (409, "agent_connected")
    api.loop.call_soon_threadsafe(api.register.leave, "web-2", connection, NOW)
    wait_for(lambda: httpx.delete(api.url + "/v1/agents/web-2").status_code == 204)
    assert all(a["agent"] != "web-2" for a in api.get("/v1/agents").json()["agents"])
    missing = httpx.delete(api.url + "/v1/agents/no%2Fsuch")
    assert (missing.status_code, missing.json()["code"]) == (404, "no_such_agent")


def test_ledger_is_the_registers(api: Served) -> None:
    books = api.get("/v1/ledger").json()
    assert {"balanced", "complete", "agents"} <= set(books)
    assert "web-1" in {book["agent"] for book in books["agents"]}


def test_fields_are_the_schemas(api: Served) -> None:
    found = {field["name"]: field for field in api.get("/v1/fields").json()["fields"]}
    assert set(found) == {name for table in TABLES for name in names_of(table)}
    assert found["ip.src"]["tables"] == ["packets", "flows", "calls"]
    assert {name for name, field in found.items() if field["shown"]} == {
        name for table in TABLES for name in fields_of(table)
    }


def test_status(api: Served) -> None:
    status = api.get("/v1/status").json()
    assert status["version"] == "0.0-test"
    assert status["store"] == api.store.id
    assert status["commit"] == api.store.committed()
    assert status["statistics"]["packets"]["rows"] == 300


def test_health_and_metrics(api: Served) -> None:
    assert api.get("/healthz").status_code == 200
    assert api.get("/readyz").status_code == 200
    api.ready[0] = False
    try:
        response = api.get("/readyz")
        assert (response.status_code, response.text) == (503, "the writer does not get on\n")
        assert api.get("/healthz").status_code == 200
    finally:
        api.ready[0] = True
    assert api.get("/metrics").text == "nodetap_hub_up 1\n"


def test_the_description_names_every_route_and_parameter(api: Served) -> None:
    document = api.get("/openapi.json").json()
    for row in ROUTES:
        operation = document["paths"][row.path.replace(":path", "")][row.method.lower()]
        assert {p["name"] for p in operation["parameters"] if p["in"] == "query"} == {p.name for p in row.params}
    assert document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == sorted(PROBLEMS)


def test_the_reference_page_names_every_route_and_code() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/api.md").read_text()
    for row in ROUTES:
        assert row.path.replace(":path", "") in page
        assert all(f"`{param.name}`" in page for param in row.params), row.path
    assert all(f"`{code}`" in page for code in PROBLEMS)


# -- who may -------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path, api: Served) -> Iterator[Served]:
    """The same hub, with a token: chDB has one path in a process."""
    hub = api.app.state.hub
    hub.tokens = Tokens("s3cret")
    yield api
    hub.tokens = None


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: f"{row.method} {row.path}")
def test_a_token_guards_every_route_that_says_so(guarded: Served, row: Any) -> None:
    path = guarded.url + row.path.replace("{name:path}", "nobody")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        response = httpx.request(row.method, path, headers=headers)
        assert (response.status_code == 401) == (row.role != OPEN)
        if row.role != OPEN:
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["code"] == "bad_token"


def test_the_right_token_opens(guarded: Served) -> None:
    response = httpx.get(guarded.url + "/v1/status", headers={"Authorization": "bearer s3cret"})
    assert response.status_code == 200


# -- limits --------------------------------------------------------------------------------------------------------


WANTED = {"since": "all", "limit": 0, "filter": "nodetap.agent == bulk"}


@pytest.fixture(scope="module")
def bulk(api: Served) -> Served:
    """400,000 rows, about 100 MB of NDJSON: more than every buffer on the way holds."""
    for seq in range(1, 5):
        api.commit(many(seq, rows=100_000, agent="bulk", epoch=77))
    return api


@pytest.fixture
def narrow(bulk: Served) -> Iterator[Served]:
    """One question at a time."""
    hub = bulk.app.state.hub
    wait_for(lambda: bulk.busy == 0)
    kept = hub.runner, hub.limits
    hub.limits = Limits(queries=1)
    hub.runner = Runner(bulk.store.reader, 1)
    yield bulk
    wait_for(lambda: bulk.busy == 0)
    hub.runner, hub.limits = kept


def test_a_large_answer_is_whole(bulk: Served) -> None:
    *rows, end = lines(bulk.get("/v1/packets", **WANTED, fields="frame.number"))
    assert [row["frame.number"] for row in rows] == list(range(1, 400_001))
    assert end["nodetap.completeness"]["agents"] == ["bulk", "web-1"]


def test_too_many_questions_are_sent_away(narrow: Served) -> None:
    with httpx.stream("GET", narrow.url + "/v1/packets", params=WANTED, timeout=30) as slow:
        chunks = slow.iter_bytes()
        next(chunks)
        refused = narrow.get("/v1/packets")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many")
        assert int(refused.headers["retry-after"]) > 0
        other = httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=30)
        refused = other.get(narrow.url + "/v1/packets")
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        assert running(narrow) == 1
    wait_for(lambda: narrow.busy == 0 and running(narrow) == 0)  # the client left: the query is cancelled
    assert narrow.get("/v1/packets").status_code == 200


@pytest.mark.parametrize("output", ["json", "csv", "arrow", "parquet"])
def test_whoever_leaves_ends_the_query(narrow: Served, output: str) -> None:
    with httpx.stream("GET", narrow.url + "/v1/packets", params={**WANTED, "format": output}, timeout=30) as slow:
        next(slow.iter_bytes())
    wait_for(lambda: narrow.busy == 0 and running(narrow) == 0)
    assert narrow.get("/v1/packets").status_code == 200


def test_who_leaves_while_waiting_for_a_turn_waits_no_more(narrow: Served) -> None:
    hub = narrow.app.state.hub
    hub.runner = Runner(narrow.store.reader, 1, wait=60.0)
    wanted = f"GET /v1/packets?{httpx.QueryParams(WANTED)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    host, port = narrow.url.removeprefix("http://").split(":")
    with httpx.stream("GET", narrow.url + "/v1/packets", params=WANTED, timeout=30) as slow:
        next(slow.iter_bytes())
        with socket.create_connection((host, int(port)), source_address=("127.0.0.3", 0)) as next_one:
            next_one.sendall(wanted)
            wait_for(lambda: hub.runner._turns.waiting == 1)
        wait_for(lambda: hub.runner._turns.waiting == 0)
        assert narrow.busy == 1


def test_a_client_that_does_not_read_runs_out_of_time(narrow: Served) -> None:
    narrow.app.state.hub.limits = Limits(queries=1, timeout=5.0)
    with httpx.stream("GET", narrow.url + "/v1/packets", params=WANTED, timeout=30) as slow:
        chunks = slow.iter_lines()
        next(chunks)
        wait_for(lambda: narrow.busy == 0)  # nothing is read, and the store is free all the same
        *_, last = chunks
    assert json.loads(last)["nodetap.error"]["code"] == "query_timeout"


def test_a_question_that_takes_too_long_has_a_status(narrow: Served) -> None:
    narrow.app.state.hub.limits = Limits(queries=1, timeout=0.01)
    slow = {"since": "all", "filter": "nodetap.info matches '(a.*b.*c.*){20}'", "fields": "frame.number"}
    response = narrow.get("/v1/packets", **slow)
    assert (response.status_code, response.json()["code"]) == (504, "query_timeout")


def test_a_question_that_takes_too_much_memory_says_what_to_do(narrow: Served) -> None:
    narrow.app.state.hub.limits = Limits(queries=1, max_memory=2 << 20)
    response = narrow.get("/v1/packets", since="all", limit=0, sort="nodetap.info")
    assert (response.status_code, response.json()["code"]) == (500, "query_failed")
    assert "narrow since" in response.json()["detail"]


def test_one_person_stops_neither_another_nor_what_is_stored(bulk: Served) -> None:
    wait_for(lambda: bulk.busy == 0)
    wanted = f"GET /v1/packets?{httpx.QueryParams(WANTED)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    address = bulk.url.removeprefix("http://").split(":")
    with ExitStack() as open_:
        for _ in range(8):  # asks for all there is and reads nothing of it
            hog = socket.create_connection((address[0], int(address[1])), source_address=("127.0.0.3", 0))
            open_.enter_context(hog).sendall(wanted)
        hub = bulk.app.state.hub
        wait_for(lambda: bulk.busy == 2 and hub.runner._turns.waiting == 6)
        assert lines(bulk.get("/v1/packets", limit=1))[-1]["nodetap.completeness"]["cut"] is None
        commit = bulk.commit(entry("packets", PACKETS[:1], 99, agent="hogged"))
        assert bulk.get("/v1/status").json()["commit"] == commit
        assert bulk.busy == 2
    wait_for(lambda: bulk.busy == 0)


def running(api: Served) -> int:
    """Streams over all packets that the engine is working on."""
    text = "SELECT count() FROM system.processes WHERE query LIKE '%toJSONString%' AND query NOT LIKE '%processes%'"
    with api.store.reader() as reader:
        return int(reader.rows(text, timeout=5)[0][0])
