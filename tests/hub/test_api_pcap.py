"""`/v1/pcap` over real sockets, with agents by script: refusals, limits, and people who go away."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import NOW, Served, serve, wait_for
from test_pcap_gather import Agent, good, silent
from test_query_named import named_packets

from hub.api.pcap import MOST_AT_ONCE
from protocol import ending
from protocol.messages import PCAP, Hello


class Connection(Agent):
    """An agent's connection as the register has it."""

    number = 5
    connection = "c5"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path) as served:
        yield served


def join(api: Served, name: str, script: Any, answers: tuple[str, ...] = (PCAP,), source: str = "live") -> Connection:
    """An agent connects."""
    made = Connection(name, api.app.state.hub.fetcher, script)
    made.answers = list(answers)
    hello = Hello([1], name, name, 1, [1], source=source, answers=made.answers)

    async def work() -> None:
        api.register.join(hello, made, NOW)

    asyncio.run_coroutine_threadsafe(work(), api.loop).result(10)
    return made


def frames_in(data: bytes) -> int:
    """Packet blocks of a file."""
    place = count = 0
    while place < len(data):
        kind, length = struct.unpack_from("<II", data, place)
        count += kind == 6
        place += length
    return count


def said(response: httpx.Response) -> dict[str, Any]:
    found = ending.find(response.content)
    assert found is not None
    return dict(found[0])


def test_a_file_with_its_completeness_behind_it(api: Served) -> None:
    join(api, "a", good(3, 10))
    join(api, "b", good(2, 10), answers=("doctor",))
    join(api, "old/replay-1", silent, answers=(), source="replay")
    response = api.get("/v1/pcap", since="all", deadline="0.5")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-pcapng")
    complete = said(response)["nodetap.completeness"]
    assert frames_in(response.content) == complete["frames"] == 30
    assert complete["agents"] == ["a"]
    assert [(each["agent"], each["reason"]) for each in complete["missing"]] == [("b", "no_recorder")]
    assert complete["complete"] is False
    only = said(api.get("/v1/pcap", since="all", filter='nodetap.agent == "a"'))["nodetap.completeness"]
    assert (only["complete"], only["missing"], only["cut"]) == (True, [], None)


@pytest.mark.parametrize(("params", "code"), [
    ({"filter": "tcp.prt == 1"}, "bad_filter"),
    ({"filter": "frame.number == 1"}, "bad_filter"),
    ({"filter": 'tcp and k8s.src.pod == "a"'}, "bad_filter"),
    ({"since": "soon"}, "bad_parameter"),
    ({"seconds": "0"}, "bad_parameter"),
    ({"deadline": "99"}, "bad_parameter"),
    ({"bytes": "-1"}, "bad_parameter"),
    ({"size": "1"}, "bad_parameter"),
])  # fmt: skip
def test_refusals_name_the_place(api: Served, params: dict[str, str], code: str) -> None:
    response = api.get("/v1/pcap", **params)
    assert (response.status_code, response.json()["code"]) == (400, code)


def test_whoever_goes_away_ends_the_question(api: Served) -> None:
    agent = join(api, "a", good(10**9, 1000, 1000))
    hub = api.app.state.hub
    with httpx.stream("GET", f"{api.url}/v1/pcap", params={"since": "all", "bytes": "0"}) as response:
        chunks = response.iter_bytes()  # httpx ends the answer with its iterator
        next(chunks)
        assert hub.captures == 1
    wait_for(lambda: bool(agent.ended))
    wait_for(lambda: hub.captures == 0 and hub.fetcher.waiting == 0)


def test_only_so_many_at_once(api: Served) -> None:
    join(api, "a", good(10**9, 1000, 1000))
    hub = api.app.state.hub
    with ExitStack() as open_:
        clients = [
            open_.enter_context(httpx.Client(transport=httpx.HTTPTransport(local_address=f"127.0.0.{2 + number}")))
            for number in range(MOST_AT_ONCE)  # one client may not have them all
        ]
        streams = [
            open_.enter_context(client.stream("GET", f"{api.url}/v1/pcap", params={"since": "all", "bytes": "0"}))
            for client in clients
        ]
        chunks = [stream.iter_bytes() for stream in streams]
        assert all(map(next, chunks))
        refused = api.get("/v1/pcap")
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    wait_for(lambda: hub.captures == 0)


def test_the_file_says_whose_addresses_there_are(api: Served) -> None:
    join(api, "a", good(1, 1))
    made = named_packets((-1, "10.0.0.7", "shop/web-1/web//n1/", "192.0.2.1", "/////external"))
    api.commit(made)
    content = api.get("/v1/pcap", since="all", filter='nodetap.agent == "web-1" or tcp or not tcp').content
    assert b"packets' times:\n10.0.0.7 is pod shop/web-1, workload web, node n1" in content
    assert b"Names of" not in api.get("/v1/pcap", since="all", filter="ip.addr == 10.0.0.8").content
